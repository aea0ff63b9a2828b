//! When things in somebody else's log happened. Logs carry up to three times per message (the message's own stamp,
//! publishing, recording), in whatever unit and from whatever zero their writer chose, or none that means anything.
//! The first times of each stream flow in; the clock to trust, its unit, and a sentence about it flow out.

use crate::types::SourceKind;

/// Times of the first messages of one stream, as they stand in the log.
#[derive(Debug, Clone, Default)]
pub struct Stamps {
    /// The message's own stamp; `None` where it has none.
    pub header: Vec<Option<u64>>,
    /// publish_time.
    pub publish: Vec<u64>,
    /// log_time.
    pub log: Vec<u64>,
}

/// Which time of a message to trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The message's own stamp.
    Header,
    /// publish_time.
    Publish,
    /// log_time.
    Log,
}

/// How to read times in a log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TimeBase {
    /// `unit_ns` times the value is nanoseconds.
    Clock {
        /// Which time.
        which: Which,
        /// Nanoseconds per unit.
        unit_ns: u64,
    },
    /// The value is too coarse to order messages: they are spread evenly over the time they cover.
    Coarse {
        /// Which time.
        which: Which,
        /// Nanoseconds per unit.
        unit_ns: u64,
    },
    /// No time in the log means anything: frames are 100 ms apart, sound follows its samples.
    None,
}

/// Between two frames or two blocks of sound lie at least and at most this, ns.
const CAMERA_INTERVAL_NS: std::ops::RangeInclusive<f64> = 2e6..=60e9;
const SOUND_INTERVAL_NS: std::ops::RangeInclusive<f64> = 5e5..=60e9;
/// Unix times from 1990 to 2100, ns.
const UNIX_NS: std::ops::RangeInclusive<f64> = 6.3e17..=4.1e18;

impl Stamps {
    fn of(&self, which: Which) -> Option<Vec<u64>> {
        match which {
            Which::Header => self.header.iter().copied().collect(),
            Which::Publish => Some(self.publish.clone()),
            Which::Log => Some(self.log.clone()),
        }
    }
}

/// Mean interval in the stream's own unit; `None` if most steps go back or nothing is there.
fn mean_interval(times: &[u64]) -> Option<f64> {
    let steps = times.len().checked_sub(1)?;
    let back = times.windows(2).filter(|pair| pair[1] < pair[0]).count();
    let (first, last) = (times.iter().min()?, times.iter().max()?);
    (back * 5 <= steps).then(|| (last - first) as f64 / steps.max(1) as f64)
}

fn fits(kind: SourceKind, times: &[u64], unit_ns: u64) -> bool {
    let Some(mean) = mean_interval(times) else { return false };
    if times.len() == 1 {
        return times[0] > 0;
    }
    let mean = mean * unit_ns as f64;
    match kind {
        SourceKind::Microphone => SOUND_INTERVAL_NS.contains(&mean),
        _ => CAMERA_INTERVAL_NS.contains(&mean),
    }
}

/// Chooses for all streams together, so that sight and sound stay on one clock.
pub fn choose(streams: &[(SourceKind, Stamps)]) -> (TimeBase, Option<String>) {
    const ORDER: [Which; 3] = [Which::Header, Which::Publish, Which::Log];
    let all = |which: Which, check: &dyn Fn(SourceKind, &[u64]) -> bool| {
        !streams.is_empty()
            && streams.iter().all(|(kind, stamps)| stamps.of(which).is_some_and(|times| check(*kind, &times)))
    };
    for which in ORDER {
        if all(which, &|kind, times| fits(kind, times, 1)) && together(streams, which) {
            return (TimeBase::Clock { which, unit_ns: 1 }, None);
        }
    }
    for which in ORDER {
        for (unit_ns, name) in [(1_000, "microseconds"), (1_000_000, "milliseconds"), (1_000_000_000, "seconds")] {
            let unix =
                |times: &[u64]| times.first().is_some_and(|first| UNIX_NS.contains(&(*first as f64 * unit_ns as f64)));
            if all(which, &|kind, times| unix(times) && fits(kind, times, unit_ns)) {
                let coarse = streams.iter().any(|(_, stamps)| stamps.of(which).is_some_and(|times| repeats(&times)));
                let note = format!("the times in the log are {name}, not nanoseconds, and are read as such");
                let base =
                    if coarse { TimeBase::Coarse { which, unit_ns } } else { TimeBase::Clock { which, unit_ns } };
                return (base, Some(note));
            }
        }
    }
    let note = "the times in the log mean nothing (all nearly the same, or out of order): frames are taken as 10 a \
                second and sound by its samples";
    (TimeBase::None, Some(note.to_owned()))
}

/// Whether all streams seem to run on one clock: they overlap or follow each other within a minute.
fn together(streams: &[(SourceKind, Stamps)], which: Which) -> bool {
    let spans: Vec<(u64, u64)> = streams
        .iter()
        .filter_map(|(_, stamps)| stamps.of(which))
        .filter_map(|times| Some((*times.iter().min()?, *times.iter().max()?)))
        .collect();
    let latest_first = spans.iter().map(|span| span.0).max().unwrap_or(0);
    let earliest_last = spans.iter().map(|span| span.1).min().unwrap_or(0);
    latest_first.saturating_sub(earliest_last) <= 60_000_000_000
}

fn repeats(times: &[u64]) -> bool {
    let same = times.windows(2).filter(|pair| pair[0] == pair[1]).count();
    same * 2 > times.len().saturating_sub(1)
}

/// Mean interval of one stream under a time base, ns; 100 ms where no time means anything.
pub fn interval_ns(stamps: &Stamps, base: TimeBase) -> u64 {
    let (TimeBase::Clock { which, unit_ns } | TimeBase::Coarse { which, unit_ns }) = base else { return 100_000_000 };
    let mean = stamps.of(which).and_then(|times| mean_interval(&times)).unwrap_or(0.0);
    let ns = (mean * unit_ns as f64) as u64;
    if ns == 0 { 100_000_000 } else { ns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SourceKind::{Camera, Microphone};

    fn stamps(header: impl Fn(u64) -> Option<u64>, log: impl Fn(u64) -> u64) -> Stamps {
        Stamps {
            header: (0..40).map(header).collect(),
            publish: (0..40).map(&log).collect(),
            log: (0..40).map(&log).collect(),
        }
    }

    #[test]
    fn a_sane_log_is_read_by_its_headers() {
        let unix = 1_700_000_000_000_000_000;
        let camera = stamps(|i| Some(unix + i * 33_000_000), |i| unix + i * 33_000_000 + 5_000_000);
        let (base, note) = choose(&[(Camera, camera)]);
        assert_eq!((base, note), (TimeBase::Clock { which: Which::Header, unit_ns: 1 }, None));
    }

    #[test]
    fn simulated_time_from_zero_is_fine_and_empty_headers_are_not_used() {
        let camera = stamps(|_| Some(0), |i| i * 100_000_000);
        let mic = stamps(|i| Some(i * 20_000_000), |i| i * 20_000_000);
        let (base, note) = choose(&[(Camera, camera), (Microphone, mic)]);
        assert_eq!((base, note), (TimeBase::Clock { which: Which::Publish, unit_ns: 1 }, None));
    }

    #[test]
    fn units_are_found() {
        for (unit_ns, per_s) in [(1_000u64, 1_000_000u64), (1_000_000, 1_000)] {
            let camera = stamps(|_| None, |i| 1_700_000_000 * per_s + i * per_s / 10);
            let (base, note) = choose(&[(Camera, camera)]);
            assert_eq!(base, TimeBase::Clock { which: Which::Publish, unit_ns });
            assert!(note.is_some());
        }
        let seconds = stamps(|_| None, |i| 1_700_000_000 + i / 10);
        let (base, _) = choose(&[(Camera, seconds.clone())]);
        assert_eq!(base, TimeBase::Coarse { which: Which::Publish, unit_ns: 1_000_000_000 });
        let interval = interval_ns(&seconds, base);
        assert!((70_000_000..110_000_000).contains(&interval), "{interval}");
    }

    #[test]
    fn clocks_that_do_not_belong_together_are_not_mixed() {
        let unix = 1_700_000_000_000_000_000;
        let camera = stamps(|i| Some(i * 33_000_000), |i| unix + i * 33_000_000);
        let mic = stamps(|i| Some(unix + i * 20_000_000), |i| unix + i * 20_000_000);
        let (base, _) = choose(&[(Camera, camera), (Microphone, mic)]);
        assert_eq!(base, TimeBase::Clock { which: Which::Publish, unit_ns: 1 });
    }

    #[test]
    fn everything_within_a_microsecond_means_nothing() {
        let camera = stamps(|i| Some(5_000 + i), |i| 1_700_000_000_000_000_000 + i);
        let (base, note) = choose(&[(Camera, camera)]);
        assert_eq!(base, TimeBase::None);
        assert!(note.unwrap().contains("10 a second"));
    }
}
