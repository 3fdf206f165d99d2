//! How often one address may ask: a bucket for each, with the time as an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The most addresses that are remembered; beyond it the fullest buckets are forgotten first.
const ADDRESSES_MAX: usize = 4096;

/// What one address may do.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Requests at once.
    pub burst: u32,
    /// Requests a second in the long run.
    pub per_s: u32,
}

/// A bucket for each address; of IPv6 for each /64, which one customer has to itself.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    buckets: HashMap<IpAddr, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limiter {
    /// All buckets are full.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: HashMap::new() }
    }

    /// Whether `address` may ask once more at `now`; takes one out of its bucket if so.
    pub fn admit(&mut self, address: IpAddr, now: Instant) -> bool {
        let rate = self.rate;
        if self.buckets.len() >= ADDRESSES_MAX {
            self.buckets.retain(|_, bucket| bucket.level(rate, now) < f64::from(rate.burst));
        }
        let key = customer(address);
        if self.buckets.len() >= ADDRESSES_MAX && !self.buckets.contains_key(&key) {
            return false;
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket { left: f64::from(rate.burst), at: now });
        let level = bucket.level(rate, now);
        let admitted = level >= 1.0;
        *bucket = Bucket { left: if admitted { level - 1.0 } else { level }, at: now };
        admitted
    }
}

impl Bucket {
    fn level(&self, rate: Rate, now: Instant) -> f64 {
        let passed: Duration = now.saturating_duration_since(self.at);
        (self.left + passed.as_secs_f64() * f64::from(rate.per_s)).min(f64::from(rate.burst))
    }
}

fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, per_s: 2 };

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let (mut limiter, start) = (Limiter::new(RATE), Instant::now());
        let a: IpAddr = "192.0.2.1".parse().unwrap();
        let asked: Vec<bool> = (0..4).map(|_| limiter.admit(a, start)).collect();
        assert_eq!(asked, [true, true, true, false]);
        assert!(limiter.admit("192.0.2.2".parse().unwrap(), start), "another address has its own bucket");
        assert!(limiter.admit(a, start + Duration::from_millis(500)));
        assert!(!limiter.admit(a, start + Duration::from_millis(500)));
    }

    #[test]
    fn addresses_of_one_prefix_share_a_bucket() {
        let (mut limiter, now) = (Limiter::new(Rate { burst: 1, per_s: 1 }), Instant::now());
        assert!(limiter.admit("2001:db8::1".parse().unwrap(), now));
        assert!(!limiter.admit("2001:db8::2".parse().unwrap(), now));
        assert!(limiter.admit("2001:db8:0:1::2".parse().unwrap(), now));
    }
}
