//! What a log says of the run it belongs to: configuration, program, weights, clocks. Written as MCAP metadata
//! `session` at the head of every file; read back by every replay.

use crate::config::CoreConfig;
use crate::types::Nanos;
use std::collections::BTreeMap;

/// Name of the metadata record.
pub const SESSION: &str = "session";
/// Name of the metadata record that a clean close adds.
pub const END: &str = "end";

/// One run of the loop.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionInfo {
    /// The part of the configuration that decisions depend on.
    pub core: CoreConfig,
    /// The whole configuration as JSON, for people and for simulations; `Null` if unknown.
    pub config: serde_json::Value,
    /// Program and version.
    pub program: String,
    /// Engine name and BLAKE3 of its weights, as hex.
    pub weights: Vec<(String, String)>,
    /// Unix time minus the session's monotonic clock, ns.
    pub unix_offset_ns: i64,
    /// Seed of the run.
    pub seed: u64,
    /// Kernel set: scalar, avx2, avx512, neon.
    pub kernels: String,
    /// When the run began, on the session's clock.
    pub started: Nanos,
}

impl SessionInfo {
    /// A session with only a configuration: tests, tools.
    pub fn new(core: CoreConfig, unix_offset_ns: i64, started: Nanos) -> SessionInfo {
        SessionInfo {
            core,
            config: serde_json::Value::Null,
            program: concat!("sage ", env!("CARGO_PKG_VERSION")).to_owned(),
            weights: Vec::new(),
            unix_offset_ns,
            seed: 0,
            kernels: "scalar".to_owned(),
            started,
        }
    }

    /// Unix time of an instant of the session, ns.
    pub fn unix(&self, instant: Nanos) -> u64 {
        (i128::from(instant.0) + i128::from(self.unix_offset_ns)).clamp(0, i128::from(u64::MAX)) as u64
    }

    /// The instant of a Unix time, ns.
    pub fn instant(&self, unix_ns: u64) -> Nanos {
        Nanos((i128::from(unix_ns) - i128::from(self.unix_offset_ns)).clamp(0, i128::from(u64::MAX)) as u64)
    }

    /// A name for the run, the same in all its files: 16 hexadecimal digits.
    pub fn id(&self) -> String {
        let text = format!("{} {} {}", self.core.hash(), self.unix(self.started), self.seed);
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }

    /// The metadata of file number `part`.
    pub fn to_metadata(&self, part: u32) -> BTreeMap<String, String> {
        let weights: BTreeMap<&str, &str> = self.weights.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        [
            ("id", self.id()),
            ("part", part.to_string()),
            ("program", self.program.clone()),
            ("core", serde_json::to_string(&self.core).unwrap_or_default()),
            ("config", self.config.to_string()),
            ("config_hash", self.core.hash()),
            ("weights", serde_json::to_string(&weights).unwrap_or_default()),
            ("clock_offset_ns", self.unix_offset_ns.to_string()),
            ("started_ns", self.started.0.to_string()),
            ("seed", self.seed.to_string()),
            ("kernels", self.kernels.clone()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    /// Reads the metadata back; the second value is the configuration hash that was written down.
    ///
    /// # Errors
    /// A sentence that says which value is missing or wrong.
    pub fn from_metadata(map: &BTreeMap<String, String>) -> Result<(SessionInfo, String), String> {
        let get =
            |key: &str| map.get(key).map(String::as_str).ok_or_else(|| format!("session metadata has no `{key}`"));
        let number = |key: &str| get(key)?.parse::<i64>().map_err(|error| format!("session metadata `{key}`: {error}"));
        let core = serde_json::from_str(get("core")?)
            .map_err(|error| format!("the configuration in the log does not fit this program: {error}"))?;
        let weights: BTreeMap<String, String> = serde_json::from_str(get("weights")?).unwrap_or_default();
        let info = SessionInfo {
            core,
            config: serde_json::from_str(get("config")?).unwrap_or_default(),
            program: get("program")?.to_owned(),
            weights: weights.into_iter().collect(),
            unix_offset_ns: number("clock_offset_ns")?,
            seed: get("seed")?.parse().unwrap_or_default(),
            kernels: get("kernels")?.to_owned(),
            started: Nanos(get("started_ns")?.parse().unwrap_or_default()),
        };
        Ok((info, get("config_hash")?.to_owned()))
    }
}

/// A Unix time as `20261126T214700Z`, for file names.
pub fn file_stamp(unix_ns: u64) -> String {
    let (days, seconds) = ((unix_ns / 1_000_000_000) as i64 / 86_400, unix_ns / 1_000_000_000 % 86_400);
    // Days to civil date, Howard Hinnant, "chrono-compatible low-level date algorithms".
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn metadata_comes_back_as_it_was() {
        let mut info = SessionInfo::new(Config::default().core(), 1_700_000_000_000_000_123, Nanos(77));
        info.weights.push(("eye".to_owned(), "ab".to_owned()));
        info.seed = 42;
        let (back, hash) = SessionInfo::from_metadata(&info.to_metadata(3)).unwrap();
        assert_eq!(back, info);
        assert_eq!(hash, info.core.hash());
        assert_eq!(info.instant(info.unix(Nanos(5_000_000_001))), Nanos(5_000_000_001));
    }

    #[test]
    fn a_missing_value_is_named() {
        let mut map = SessionInfo::new(Config::default().core(), 0, Nanos(0)).to_metadata(0);
        map.remove("core");
        assert!(SessionInfo::from_metadata(&map).unwrap_err().contains("`core`"));
    }

    #[test]
    fn dates_of_file_names() {
        assert_eq!(file_stamp(0), "19700101T000000Z");
        assert_eq!(file_stamp(1_709_210_096_000_000_000), "20240229T123456Z");
    }
}
