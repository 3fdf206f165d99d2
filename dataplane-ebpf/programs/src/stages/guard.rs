//! Guard: what a guarded attachment may send. Attachments without a guard do not come here.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{Meta, Stage};

use crate::out::{Decision, Pkt};

#[classifier]
pub fn st_guard(ctx: TcContext) -> i32 {
    Pkt::stage(ctx, run)
}

#[inline(always)]
fn run(p: &Pkt) -> Decision {
    p.meta().flags |= Meta::GUARDED;
    p.go(Stage::Classify)
}
