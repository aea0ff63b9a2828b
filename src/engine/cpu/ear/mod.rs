//! The ear: a streaming recogniser of a closed vocabulary on the CPU. 16 kHz mono samples flow in, in blocks of any size;
//! words and utterances flow out as `EarEvent`s. The same samples give the same events however they are split, and
//! nothing is allocated after construction. Trained by `engines/ear`; the figures are in its README.

mod decode;
mod fft;
mod frontend;
mod hear;
mod kernel;
mod net;
mod weights;

pub use decode::{EarEvent, EarWord};
pub use frontend::{BANDS, HOP, WINDOW};
pub use hear::EarEngine;
pub use net::NetState;
pub use weights::EarError;

use crate::engine::cpu::simd::Simd;
use decode::Decoder;
use frontend::FrontEnd;
use net::Net;
use std::path::Path;
use std::sync::Arc;
use weights::Weights;

/// A listening ear: its weights and all it remembers of the sound.
#[derive(Debug, Clone)]
pub struct Ear {
    weights: Arc<Weights>,
    simd: Simd,
    front: FrontEnd,
    net: Net,
    decoder: Decoder,
    /// Samples heard since the start or the last `reset`.
    heard: u64,
}

/// All that an ear remembers, for comparing two of them.
#[derive(Debug, Clone, PartialEq)]
pub struct EarState {
    samples: Vec<f32>,
    net: NetState,
    decoder: Decoder,
    heard: u64,
}

impl Ear {
    /// Reads a weight file for the fastest instructions of this machine.
    ///
    /// # Errors
    /// If the file cannot be read or is no weight file of an ear.
    pub fn load(path: &Path) -> Result<Ear, EarError> {
        let bytes =
            std::fs::read(path).map_err(|source| EarError::Read { path: path.display().to_string(), source })?;
        Ear::from_bytes(&bytes, Simd::best())
    }

    /// Makes an ear from the bytes of a weight file.
    ///
    /// # Errors
    /// If they are no weight file of an ear.
    pub fn from_bytes(bytes: &[u8], simd: Simd) -> Result<Ear, EarError> {
        let simd = if simd.available() { simd } else { Simd::Scalar };
        let weights = Arc::new(Weights::parse(bytes, simd)?);
        let (net, decoder) = (Net::new(weights.clone()), Decoder::new(&weights.symbols, weights.rule));
        Ok(Ear { weights, simd, front: FrontEnd::default(), net, decoder, heard: 0 })
    }

    /// A second ear with the same weights that has heard nothing.
    pub fn another(&self) -> Ear {
        let mut ear = self.clone();
        ear.reset();
        ear
    }

    /// Hears samples in [-1, 1] and reports each event in order.
    pub fn push(&mut self, samples: &[f32], each: &mut impl FnMut(EarEvent<'_>)) {
        self.hear(samples, &mut |_, _| {}, each);
    }

    /// As [`Ear::push`], for 16-bit samples.
    pub fn push_i16(&mut self, samples: &[i16], each: &mut impl FnMut(EarEvent<'_>)) {
        let mut scaled = [0.0f32; HOP];
        for chunk in samples.chunks(HOP) {
            for (out, sample) in scaled.iter_mut().zip(chunk) {
                *out = f32::from(*sample) / 32_768.0;
            }
            self.push(&scaled[..chunk.len()], each);
        }
    }

    /// As [`Ear::push`]; also hands out the raw logits of each frame with the number of samples heard by then.
    pub fn hear(
        &mut self,
        mut samples: &[f32],
        frame: &mut impl FnMut(u64, &[f32]),
        each: &mut impl FnMut(EarEvent<'_>),
    ) {
        let mut row = [0.0; BANDS];
        while !samples.is_empty() {
            let (taken, complete) = self.front.take(samples, &mut row);
            samples = &samples[taken..];
            self.heard += taken as u64;
            if complete {
                self.decoder.row(&row, self.heard);
                if let Some(logits) = self.net.push(&row) {
                    frame(self.heard, logits);
                    self.decoder.frame(logits, &self.weights.symbols, self.heard, each);
                }
            }
        }
    }

    /// Forgets the sound; the next sample is sample 0 of a new stream.
    pub fn reset(&mut self) {
        self.front.reset();
        self.net.reset();
        self.decoder.reset();
        self.heard = 0;
    }

    /// All it remembers.
    pub fn state(&self) -> EarState {
        EarState {
            samples: self.front.kept().to_vec(),
            net: self.net.state().clone(),
            decoder: self.decoder.clone(),
            heard: self.heard,
        }
    }

    /// How each symbol is written; the first is the blank, the last the unknown word.
    pub fn symbols(&self) -> &[String] {
        &self.weights.symbols
    }

    /// The instructions it uses.
    pub fn simd(&self) -> Simd {
        self.simd
    }

    /// Samples heard since the start or the last [`Ear::reset`].
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Bytes its weights occupy.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }
}
