//! Tensors that no file of the checkpoint holds in the form a graph needs, written once into one file beside it. Tensors of
//! the checkpoint flow in, a few rows at a time; a file flows out, whole or not at all, or a mapping that leaves no file behind.

use super::graph::Location;
use super::proto::DataType;
use crate::model::checkpoint::{Element, Tensor};
use crate::model::lowbit::Format;
use crate::model::lowbit::pack::{Choice, Packer};
use crate::model::qwen2::{element_of, widen};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Name of the file.
pub const FILE: &str = "rewritten.weights";

/// Weights of a row that share a scale where plain weights become INT4.
pub const INT4_BLOCK: usize = 128;

/// Each tensor begins at a multiple of this.
const ALIGNMENT: u64 = 64;

/// How a tensor is made of one of the checkpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// 4-bit codes, `[outputs / 2, inputs]` with two outputs in a byte, as ONNX has them: `[outputs, inputs / 2]` with two
    /// inputs in a byte.
    PairInputs,
    /// Numbers as numbers of this type.
    Numbers(DataType),
    /// Plain weights `[outputs, inputs]` as INT4 codes, two inputs in a byte.
    Int4Codes,
    /// The scales of the codes just before, one for [`INT4_BLOCK`] inputs, in numbers of this type.
    Int4Scales(DataType),
}

struct Piece {
    name: String,
    from: Tensor,
    how: How,
    at: u64,
    bytes: u64,
}

/// The tensors of the file, in order.
#[derive(Default)]
pub struct Rewritten {
    pieces: Vec<Piece>,
    bytes: u64,
}

impl Rewritten {
    /// Plans a tensor of `bytes` bytes and returns where it will lie.
    pub fn add(&mut self, name: &str, from: &Tensor, how: How, bytes: usize) -> Location {
        let at = self.bytes.next_multiple_of(ALIGNMENT);
        let bytes = bytes as u64;
        self.bytes = at + bytes;
        self.pieces.push(Piece { name: name.to_owned(), from: from.clone(), how, at, bytes });
        Location { file: FILE.to_owned(), offset_bytes: at, length_bytes: bytes }
    }

    /// Bytes of the file; 0: none is needed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the file into `folder`, whole or not at all. `stop` is asked before every tensor.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::Interrupted`] if it was stopped.
    pub fn write(&self, folder: &Path, stop: &dyn Fn() -> bool) -> io::Result<()> {
        let part = folder.join(format!("{FILE}.part"));
        let written = File::create(&part).and_then(|file| self.fill(file, stop)?.sync_all());
        if written.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        written?;
        std::fs::rename(part, folder.join(FILE))
    }

    /// Writes the tensors into a file of `folder` that has no name any more, and maps it.
    ///
    /// # Errors
    /// As [`Rewritten::write`].
    pub fn map(&self, folder: &Path, stop: &dyn Fn() -> bool) -> io::Result<Mapped> {
        let places =
            self.pieces.iter().map(|piece| (piece.name.clone(), (piece.at as usize, piece.bytes as usize))).collect();
        if self.bytes == 0 {
            return Ok(Mapped { map: None, places });
        }
        let part = folder.join(format!("{FILE}.part"));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&part)?;
        std::fs::remove_file(&part)?;
        let file = self.fill(file, stop)?;
        // SAFETY: the mapping is read-only, and the file has no name by which anybody could change it.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Mapped { map: Some(map), places })
    }

    fn fill(&self, file: File, stop: &dyn Fn() -> bool) -> io::Result<File> {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let (mut at, mut scales) = (0, Vec::new());
        for piece in &self.pieces {
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            out.write_all(&[0; ALIGNMENT as usize][..(piece.at - at) as usize])?;
            piece.write(&mut out, &mut scales)?;
            at = piece.at + piece.bytes;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// The tensors in memory.
pub struct Mapped {
    map: Option<Mmap>,
    places: BTreeMap<String, (usize, usize)>,
}

impl Mapped {
    /// The bytes of one.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let (at, length) = *self.places.get(name)?;
        self.map.as_ref()?.get(at..at + length)
    }
}

impl Piece {
    /// `scales` are those, in bf16, of the INT4 codes that were written last.
    fn write(&self, out: &mut impl Write, scales: &mut Vec<u8>) -> io::Result<()> {
        let columns = self.from.shape.last().copied().unwrap_or(1);
        let mut pair = |pair: &[u8]| {
            out.write_all(&pair_inputs(pair, 0))?;
            out.write_all(&pair_inputs(pair, 4))
        };
        match self.how {
            How::PairInputs => self.from.bytes().chunks_exact(columns).try_for_each(pair),
            How::Numbers(kind) => self.rows(columns, 1, |numbers| write_numbers(out, numbers, kind)),
            How::Int4Codes => {
                let packer = Packer::new(Format::Int4, columns, INT4_BLOCK, Choice::LeastError, 0.0);
                let mut codes = Vec::new();
                scales.clear();
                self.rows(columns, 2, |rows| {
                    codes.clear();
                    packer.pack(rows, &mut codes, scales);
                    pair(&codes)
                })
            }
            How::Int4Scales(kind) => {
                let mut numbers = vec![0.0; scales.len() / 2];
                widen(scales, Element::Bf16, &mut numbers);
                write_numbers(out, &numbers, kind)
            }
        }
    }

    /// Hands over the numbers of the source, widened, `count` rows at a time.
    fn rows(&self, columns: usize, count: usize, mut each: impl FnMut(&[f32]) -> io::Result<()>) -> io::Result<()> {
        let element = element_of(self.from.dtype).unwrap_or(Element::F32);
        let mut rows = vec![0.0; count * columns];
        self.from.bytes().chunks_exact(count * element.row_bytes(columns)).try_for_each(|bytes| {
            widen(bytes, element, &mut rows);
            each(&rows)
        })
    }
}

/// One of the two outputs in a row of bytes, its inputs two in a byte; `shift` says which half.
fn pair_inputs(row: &[u8], shift: u32) -> Vec<u8> {
    row.chunks(2).map(|two| two.iter().rev().fold(0, |byte, code| byte << 4 | code >> shift & 15)).collect()
}

fn write_numbers(out: &mut impl Write, numbers: &[f32], kind: DataType) -> io::Result<()> {
    numbers.iter().try_for_each(|&number| match kind {
        DataType::Float16 => out.write_all(&half::f16::from_f32(number).to_le_bytes()),
        DataType::Bfloat16 => out.write_all(&half::bf16::from_f32(number).to_le_bytes()),
        _ => out.write_all(&number.to_le_bytes()),
    })
}
