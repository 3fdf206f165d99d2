//! Who may do what: tokens, tenants, and what each operation of the API needs.
//!
//! ```text
//!  request ─ Unix socket of root, or a token ─▶ Actor{role, scope} ─ operation::need ─▶ handler ─▶ Brain::change
//!                 │ tokens::admit                      │ actor::authorize                       │ Scope::check
//!                 └────────── refused ─────────────────┴──────────────────────┬─────────────────┘
//!                                                                    ledger ─▶ audit log
//! ```
//! * [`operation`]: what each operation needs; one that is not there is an administrator's alone.
//! * [`token`]: what a token is, as pure rules; [`tokens`]: those of this gateway.
//! * [`scope`]: what somebody who is bound to tenants sees and may change.
//! * [`ledger`]: refusals on their way into the audit log, bounded whoever asks how often.

pub mod ledger;
pub mod operation;
pub mod scope;
pub mod token;
pub mod tokens;
