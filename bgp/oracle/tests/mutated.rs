//! Damaged messages, ours and the other decoder's verdict on each: nobody panics, what we take survives being written
//! again, and both agree wherever the RFC is clear. More of them by hand: `examples/mutate.rs`.

use std::collections::BTreeMap;

use watari_bgp_oracle::mutate::{Dice, Excuse, Outcome, Verdict, corpus, judge, mutated, reasons};

#[test]
fn damaged_messages_are_judged_alike_where_the_rfc_is_clear() {
    let (corpus, mut dice) = (corpus(), Dice::new(4271));
    let mut seen: BTreeMap<Outcome, u32> = BTreeMap::new();
    for number in 0..100_000 {
        let message = mutated(&corpus, &mut dice);
        let outcome = judge(&message);
        let is_clear = matches!(outcome, Outcome::Differ(..) | Outcome::Routes);
        assert!(!is_clear, "message {number}, {outcome}: {}\n{message:02x?}", reasons(&message));
        *seen.entry(outcome).or_default() += 1;
    }
    // Every verdict was reached, and most of the time there was nothing to excuse.
    for verdict in [Verdict::Incomplete, Verdict::End, Verdict::Withdraw, Verdict::Discard, Verdict::Accept] {
        assert!(seen.get(&Outcome::Agree(verdict)) > Some(&50), "{seen:?}");
    }
    let excused = |(outcome, times): (&Outcome, &u32)| match outcome {
        Outcome::Excused(excuse) if *excuse != Excuse::Sooner => *times,
        _ => 0,
    };
    assert!(seen.iter().map(excused).sum::<u32>() < 5_000, "{seen:?}");
}

#[test]
fn the_corpus_is_taken_by_both() {
    for message in corpus() {
        assert_eq!(judge(&message), Outcome::Agree(Verdict::Accept), "{}", reasons(&message));
    }
}
