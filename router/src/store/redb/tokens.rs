//! Tokens in the file: what is known of each, by its public name.

use ::redb::{ReadTransaction, ReadableTable as _, WriteTransaction};

use super::{StoreError, TOKENS, decode, encode, failed};
use crate::access::token::{Token, TokenId};

/// Every token.
pub(super) fn all(read: &ReadTransaction) -> Result<Vec<Token>, StoreError> {
    let table = read.open_table(TOKENS).map_err(failed)?;
    let mut tokens = Vec::new();
    for entry in table.iter().map_err(failed)? {
        let (id, value) = entry.map_err(failed)?;
        tokens.push(decode(value.value(), || format!("token {}", id.value()))?);
    }
    Ok(tokens)
}

/// Writes and removes tokens.
pub(super) fn stage(write: &WriteTransaction, put: &[Token], remove: &[TokenId]) -> Result<(), StoreError> {
    if put.is_empty() && remove.is_empty() {
        return Ok(());
    }
    let mut table = write.open_table(TOKENS).map_err(failed)?;
    for id in remove {
        table.remove(id.as_str()).map_err(failed)?;
    }
    for token in put {
        table.insert(token.id.as_str(), encode(token).as_slice()).map_err(failed)?;
    }
    Ok(())
}
