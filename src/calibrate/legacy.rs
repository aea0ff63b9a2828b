//! Calibration tables of TensorRT's old INT8 calibrators, as engines of vision models still have them. Text flows in; the
//! largest value of every tensor flows out.
//!
//! The first line says the version and the algorithm (`TRT-8601-EntropyCalibration2`); each other line a tensor's name and the
//! bits of its scale as a hexadecimal f32, highest byte first. The scale times 127 is the largest value that is kept.

use std::collections::BTreeMap;

/// A table.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The first line.
    pub source: String,
    /// Largest value by tensor.
    pub largest: BTreeMap<String, f32>,
}

/// Reads a table.
///
/// # Errors
/// One sentence with the line.
pub fn parse(text: &str) -> Result<Table, String> {
    let mut lines = text.lines().enumerate();
    let source = match lines.next() {
        Some((_, first)) if first.starts_with("TRT-") && first.contains("Calibration") => first.trim().to_owned(),
        _ => return Err("does not begin with a line like TRT-8601-EntropyCalibration2".to_owned()),
    };
    let mut largest = BTreeMap::new();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let number = index + 1;
        // Names may hold colons themselves.
        let Some((name, hex)) = line.rsplit_once(':') else {
            return Err(format!("line {number} is not `name: scale`"));
        };
        let hex = hex.trim();
        let bits = u32::from_str_radix(hex, 16).ok().filter(|_| hex.len() <= 8);
        match bits.map(f32::from_bits) {
            Some(scale) if scale.is_finite() && scale >= 0.0 => {
                if largest.insert(name.trim().to_owned(), scale * 127.0).is_some() {
                    return Err(format!("line {number} names `{}` a second time", name.trim()));
                }
            }
            _ => return Err(format!("line {number}: `{hex}` is not the hexadecimal form of a scale")),
        }
    }
    if largest.is_empty() { Err("names no tensor".to_owned()) } else { Ok(Table { source, largest }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_become_largest_values() {
        // 0x3c010204 is 1/127: the range of an image from 0 to 1.
        let table = parse("TRT-8601-EntropyCalibration2\nimages: 3c010204\nmodel/a:0: 40000000\n\n").unwrap();
        assert_eq!(table.source, "TRT-8601-EntropyCalibration2");
        assert!((table.largest["images"] - 1.0).abs() < 1e-6, "{}", table.largest["images"]);
        assert_eq!(table.largest["model/a:0"], 254.0);
    }

    #[test]
    fn what_is_no_table_is_refused_with_the_line() {
        for (text, says) in [
            ("hello", "TRT-8601"),
            ("TRT-8601-MinMaxCalibration\n", "no tensor"),
            ("TRT-8601-MinMaxCalibration\na 3c010204", "line 2"),
            ("TRT-8601-MinMaxCalibration\na: 3c010204\nb: 7f800000", "line 3"),
            ("TRT-8601-MinMaxCalibration\na: x", "`x`"),
            ("TRT-8601-MinMaxCalibration\na: 3c010204\na: 3c010204", "second time"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }
}
