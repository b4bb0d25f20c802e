//! The governor before a target that is only arithmetic.

use super::*;

/// A target that makes calls as fast as it can: so many per second of its own work, each of which
/// takes `trap` for its traps, and `record` more if it is followed.
struct Target {
    calls_per_second: f64,
    /// How large its blocks are, bytes.
    size: f64,
    trap: f64,
    record: f64,
    /// How many system calls that map memory per second of its own work; each takes `trap` twice.
    system_calls: f64,
}

const BUSY: Target = Target {
    calls_per_second: 500_000.0,
    size: 64.0,
    trap: 1.9e-6,
    record: 2.2e-6,
    system_calls: 0.0,
};

struct Run {
    governor: Governor,
    in_place: bool,
    at_system_calls: bool,
    at: Duration,
    cpu: f64,
    overhead: f64,
    /// Work that windows stood for, by their own account.
    seen: f64,
    work: f64,
    weight: f64,
    orders: Vec<(Duration, Order)>,
}

impl Run {
    fn new(percent: f64, asked: u64) -> Self {
        Self {
            governor: Governor::new(percent, asked),
            in_place: true,
            at_system_calls: true,
            at: Duration::ZERO,
            cpu: 0.0,
            overhead: 0.0,
            seen: 0.0,
            work: 0.0,
            weight: 1.0,
            orders: Vec::new(),
        }
    }

    /// Runs a target on one processor.
    fn go(&mut self, target: &Target, time: Duration) {
        let end = self.at + time;
        while self.at < end {
            let pace = self.governor.pace();
            self.at += pace;
            let cpu = pace.as_secs_f64();
            let followed = match self.governor.sample() {
                0 => 1.0,
                sample => 1.0 - (-target.size / sample as f64).exp(),
            };
            let per_call = match self.in_place {
                true => target.trap + followed * target.record,
                false => 0.0,
            };
            let per_system_call = match self.at_system_calls {
                true => 2.0 * target.trap,
                false => 0.0,
            };
            // Seconds, per second of its own work.
            let system_calls = target.system_calls * per_system_call;
            let all = 1.0 + target.calls_per_second * per_call + system_calls;
            let calls = cpu * target.calls_per_second / all;
            let overhead = cpu * (1.0 - 1.0 / all);
            self.cpu += cpu;
            self.overhead += overhead;
            self.work += cpu - overhead;
            if self.in_place {
                self.seen += (cpu - overhead) * self.weight;
            }
            let asked = if self.in_place { calls } else { 0.0 };
            let order = self.governor.look(
                self.at,
                Share {
                    cpu_ns: (cpu * 1e9) as u64,
                    overhead_ns: (overhead * 1e9) as u64,
                    system_calls_ns: (cpu * system_calls / all * 1e9) as u64,
                    asked: asked as u64,
                    followed: (asked * followed) as u64,
                },
            );
            match order {
                Order::Keep => continue,
                Order::Sample(_) => {}
                Order::NoSystemCalls => self.at_system_calls = false,
                Order::Away => self.in_place = false,
                Order::Back => {
                    self.in_place = true;
                    self.weight = match self.governor.placed(Share::default()) {
                        0 => 1.0,
                        duty => (1u64 << 32) as f64 / duty as f64,
                    };
                }
            }
            self.orders.push((self.at, order));
        }
    }

    fn percent(&self) -> f64 {
        100.0 * self.overhead / self.cpu
    }
}

#[test]
fn a_target_that_does_little_is_recorded_exactly() {
    let calm = Target {
        calls_per_second: 5_000.0,
        ..BUSY
    };
    let mut run = Run::new(5.0, 0);
    run.go(&calm, Duration::from_secs(60));
    assert_eq!(run.orders, []);
}

#[test]
fn a_smaller_sample_comes_first() {
    // Exact would take 9 %, the traps alone 4 %.
    let target = Target {
        calls_per_second: 22_000.0,
        ..BUSY
    };
    let mut run = Run::new(5.0, 0);
    run.go(&target, Duration::from_secs(30));
    let orders: Vec<Order> = run.orders.iter().map(|&(_, order)| order).collect();
    assert_eq!(orders, [Order::Sample(FIRST_SAMPLE)]);
    assert!(run.percent() < 5.0, "{}", run.percent());
}

#[test]
fn system_calls_are_left_alone_if_they_take_much_of_it() {
    // Exact would take 4 %, the system calls as much again.
    let mut target = Target {
        calls_per_second: 10_000.0,
        system_calls: 10_000.0,
        ..BUSY
    };
    let mut run = Run::new(5.0, 0);
    run.go(&target, Duration::from_secs(30));
    let orders: Vec<Order> = run.orders.iter().map(|&(_, order)| order).collect();
    assert_eq!(orders, [Order::NoSystemCalls]);
    assert!(run.percent() < 5.0, "{}", run.percent());

    // Later, too, when the rest is away.
    target.system_calls = 0.0;
    let mut run = Run::new(5.0, 0);
    run.go(&BUSY, Duration::from_secs(10));
    target.system_calls = 20_000.0;
    run.go(&target, Duration::from_secs(10));
    assert!(run.orders.iter().any(|it| it.1 == Order::NoSystemCalls));
    assert!(run.percent() < 5.0, "{}", run.percent());

    // And not if they take little of what is too much.
    target.calls_per_second = 500_000.0;
    target.system_calls = 500.0;
    let mut run = Run::new(5.0, 0);
    run.go(&target, Duration::from_secs(30));
    assert!(run.at_system_calls);
    assert!(run.percent() < 5.0, "{}", run.percent());
}

#[test]
fn then_the_probes_are_away_for_most_of_the_time() {
    for percent in [1.0, 5.0, 20.0] {
        let mut run = Run::new(percent, 0);
        run.go(&BUSY, Duration::from_secs(120));
        let first_away = run.orders.iter().find(|(_, order)| *order == Order::Away);
        let (first_away, _) = first_away.expect("away");
        assert!(*first_away < Duration::from_secs(1), "{first_away:?}");
        let taken = run.percent();
        assert!(taken < percent && taken > percent * 0.5, "{taken}");
        // What the windows are said to stand for is all of the work, but for the last cycle.
        let seen = run.seen / run.work;
        assert!((seen - 1.0).abs() < 0.1, "{percent}: {seen}");
    }
}

/// On a machine that has little time for leakprobe, its first look comes late.
#[test]
fn what_was_taken_too_much_is_paid_back_before_the_next_window() {
    let mut run = Run::new(10.0, 0);
    run.go(&BUSY, Duration::from_secs(1));
    let late = 0.5;
    run.governor.savings -= late * 1e9;
    run.cpu += late;
    run.overhead += late;
    run.go(&BUSY, Duration::from_secs(6));
    for _ in 0..60 {
        run.go(&BUSY, Duration::from_secs(1));
        assert!(run.percent() < 10.0, "{} at {:?}", run.percent(), run.at);
    }
    assert!(run.percent() > 5.0, "{}", run.percent());
}

#[test]
fn a_burst_is_answered_within_a_second() {
    let calm = Target {
        calls_per_second: 5_000.0,
        ..BUSY
    };
    let mut run = Run::new(5.0, 0);
    run.go(&calm, Duration::from_secs(20));
    let (burst, cpu, overhead) = (run.at, run.cpu, run.overhead);
    run.go(&BUSY, Duration::from_secs(1));
    let away = run.orders.iter().find(|(_, order)| *order == Order::Away);
    let (away, _) = away.expect("away");
    assert!(*away - burst < Duration::from_secs(1), "{away:?}");
    run.go(&BUSY, Duration::from_secs(59));
    let taken = 100.0 * (run.overhead - overhead) / (run.cpu - cpu);
    assert!(taken < 5.5, "{taken}");
}

#[test]
fn when_it_is_calm_again_more_is_recorded_but_not_again_and_again() {
    let calm = Target {
        calls_per_second: 1_000.0,
        ..BUSY
    };
    let mut run = Run::new(5.0, 0);
    run.go(&BUSY, Duration::from_secs(5));
    run.go(&calm, Duration::from_secs(120));
    let last = run.orders.last().map(|&(_, order)| order);
    assert_eq!(last, Some(Order::Sample(0)), "{:?}", run.orders);
    // A target that is in between: too much for an exact recording.
    let mut run = Run::new(5.0, 0);
    let target = Target {
        calls_per_second: 30_000.0,
        trap: 0.3e-6,
        ..BUSY
    };
    run.go(&target, Duration::from_secs(600));
    assert!(run.orders.len() < 16, "{:?}", run.orders);
}

#[test]
fn never_more_than_was_asked_for() {
    let calm = Target {
        calls_per_second: 1_000.0,
        ..BUSY
    };
    let mut run = Run::new(5.0, 1 << 20);
    run.go(&BUSY, Duration::from_secs(5));
    run.go(&calm, Duration::from_secs(200));
    assert_eq!(run.governor.sample(), 1 << 20);
}
