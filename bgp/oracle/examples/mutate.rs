//! Damaged messages by hand: `mutate SEED COUNT` judges COUNT messages, prints what came of them, and an example of each
//! kind in which we and the other decoder differ. A message that breaks a rule is printed before the run ends.

use std::collections::BTreeMap;
use std::panic::catch_unwind;

use watari_bgp_oracle::mutate::{Dice, Outcome, corpus, judge, mutated, reasons};

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [seed, count] = numbers[..] else {
        eprintln!("mutate SEED COUNT");
        std::process::exit(2);
    };
    let (corpus, mut dice) = (corpus(), Dice::new(seed));
    let mut seen: BTreeMap<Outcome, (u64, Vec<u8>)> = BTreeMap::new();
    for number in 0..count {
        let message = mutated(&corpus, &mut dice);
        let Ok(outcome) = catch_unwind(|| judge(&message)) else {
            println!("seed {seed}, message {number}: {}", hex(&message));
            std::process::exit(1);
        };
        seen.entry(outcome).or_insert_with(|| (0, message)).0 += 1;
    }
    println!("seed {seed}: {count} messages, {} in the corpus", corpus.len());
    for (outcome, (times, first)) in &seen {
        println!("{times:>9}  {outcome}");
        if !matches!(outcome, Outcome::Agree(_)) {
            println!("           {}\n           {}", hex(first), reasons(first));
        }
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
