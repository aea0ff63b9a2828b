//! The sensor store: the last frames and some seconds of sound of every source, for the lanes to read. Sense threads put
//! payloads in, lanes take them out by name (`SensorReader`); the tick never touches it. Locks are per source and held
//! for a copy of one block or one pointer.
//!
//! Frames come from a pool and return to it when nobody holds them any more, so that capturing allocates only at the
//! start.

use crate::engine::SensorReader;
use crate::types::{AudioBlock, Frame, SourceId};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Frames kept per camera: a little over half a second at 30 Hz.
pub const KEPT_FRAMES: usize = 16;
/// Blocks kept per microphone: four seconds.
pub const KEPT_BLOCKS: usize = 200;

/// Frames and sound of one source.
#[derive(Debug, Default)]
struct Shelf {
    frames: VecDeque<Arc<Frame>>,
    /// Taken off the shelf while a lane still reads them.
    lent: Vec<Arc<Frame>>,
    spare: Vec<Frame>,
    sound: VecDeque<AudioBlock>,
}

/// See the module.
#[derive(Debug)]
pub struct SensorStore {
    shelves: Vec<Mutex<Shelf>>,
    kept_frames: usize,
    kept_blocks: usize,
}

impl SensorStore {
    /// A store for this many sources, with [`KEPT_FRAMES`] and [`KEPT_BLOCKS`].
    pub fn new(sources: usize) -> SensorStore {
        SensorStore::with_room(sources, KEPT_FRAMES, KEPT_BLOCKS)
    }

    /// A store that keeps this many frames and blocks per source (at least one each).
    pub fn with_room(sources: usize, frames: usize, blocks: usize) -> SensorStore {
        SensorStore {
            shelves: (0..sources).map(|_| Mutex::default()).collect(),
            kept_frames: frames.max(1),
            kept_blocks: blocks.max(1),
        }
    }

    /// An empty frame with the buffers of an old one, to decode the next picture into.
    pub fn frame_buffer(&self, source: SourceId) -> Frame {
        let Some(mut shelf) = self.shelf(source) else { return Frame::default() };
        shelf.collect();
        let mut frame = shelf.spare.pop().unwrap_or_default();
        frame.bytes.clear();
        if let Some(jpeg) = &mut frame.jpeg {
            jpeg.clear();
        }
        frame
    }

    /// Puts the next frame on the shelf; the oldest makes room.
    pub fn put_frame(&self, source: SourceId, frame: Frame) -> Arc<Frame> {
        let frame = Arc::new(frame);
        if let Some(mut shelf) = self.shelf(source) {
            while shelf.frames.len() >= self.kept_frames {
                if let Some(old) = shelf.frames.pop_front() {
                    shelf.lent.push(old);
                }
            }
            shelf.frames.push_back(Arc::clone(&frame));
            shelf.collect();
        }
        frame
    }

    /// Puts the next block on the shelf; the oldest makes room.
    pub fn put_sound(&self, source: SourceId, block: &AudioBlock) {
        if let Some(mut shelf) = self.shelf(source) {
            while shelf.sound.len() >= self.kept_blocks {
                shelf.sound.pop_front();
            }
            shelf.sound.push_back(*block);
        }
    }

    fn shelf(&self, source: SourceId) -> Option<MutexGuard<'_, Shelf>> {
        // A poisoned shelf is still a consistent one: each change is a single push or pop.
        self.shelves.get(usize::from(source.0)).map(|s| s.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shelf {
    /// Takes back the frames that nobody reads any more. Never more spare than a few: a lane that holds many frames at
    /// once gives them to the allocator instead.
    fn collect(&mut self) {
        const SPARE: usize = 4;
        let mut index = 0;
        while index < self.lent.len() {
            if Arc::strong_count(&self.lent[index]) > 1 {
                index += 1;
                continue;
            }
            let old = self.lent.swap_remove(index);
            if let (Ok(frame), true) = (Arc::try_unwrap(old), self.spare.len() < SPARE) {
                self.spare.push(frame);
            }
        }
        const LENT: usize = 32;
        while self.lent.len() > LENT {
            self.lent.remove(0);
        }
    }
}

impl SensorReader for SensorStore {
    fn frame(&self, source: SourceId, seq: u64) -> Option<Arc<Frame>> {
        let shelf = self.shelf(source)?;
        shelf.frames.iter().rev().find(|f| f.seq == seq).map(Arc::clone)
    }

    fn sound(&self, source: SourceId, from_seq: u64, upto_seq: u64, each: &mut dyn FnMut(&AudioBlock)) {
        // Each block is copied out under the lock and handed over without it: the ear may take its time.
        let mut next = from_seq;
        while next <= upto_seq {
            let block = self.shelf(source).and_then(|shelf| {
                let index = shelf.sound.partition_point(|b| b.seq < next);
                shelf.sound.get(index).filter(|b| b.seq <= upto_seq).copied()
            });
            let Some(block) = block else { return };
            each(&block);
            next = block.seq + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::AUDIO_BLOCK;

    const CAM: SourceId = SourceId(0);
    const MIC: SourceId = SourceId(1);

    fn block(seq: u64) -> AudioBlock {
        AudioBlock {
            seq,
            captured: Default::default(),
            stamp: Default::default(),
            samples: [seq as i16; AUDIO_BLOCK],
            played: [0; AUDIO_BLOCK],
        }
    }

    #[test]
    fn keeps_the_newest_frames_and_hands_out_what_it_keeps() {
        let store = SensorStore::with_room(2, 3, 10);
        for seq in 0..5 {
            store.put_frame(CAM, Frame { seq, ..Frame::default() });
        }
        assert!(store.frame(CAM, 1).is_none());
        assert_eq!(store.frame(CAM, 2).map(|f| f.seq), Some(2));
        assert_eq!(store.frame(CAM, 4).map(|f| f.seq), Some(4));
        assert!(store.frame(SourceId(9), 0).is_none());
    }

    #[test]
    fn buffers_come_back_once_the_lane_lets_go() {
        let store = SensorStore::with_room(1, 1, 1);
        let mut first = store.frame_buffer(CAM);
        first.bytes.reserve_exact(921_600);
        let room = first.bytes.as_ptr();
        store.put_frame(CAM, first);
        let held = store.frame(CAM, 0);
        store.put_frame(CAM, Frame { seq: 1, ..Frame::default() });
        assert_ne!(store.frame_buffer(CAM).bytes.as_ptr(), room, "a lane still reads it");
        drop(held);
        let again = store.frame_buffer(CAM);
        assert_eq!((again.bytes.as_ptr(), again.bytes.capacity(), again.bytes.len()), (room, 921_600, 0));
    }

    #[test]
    fn sound_comes_in_order_without_what_was_lost_or_forgotten() {
        let store = SensorStore::with_room(2, 1, 4);
        for seq in [0, 1, 2, 3, 5, 6] {
            store.put_sound(MIC, &block(seq));
        }
        let mut heard = Vec::new();
        store.sound(MIC, 1, 5, &mut |b| heard.push(b.seq));
        assert_eq!(heard, [2, 3, 5]);
        heard.clear();
        store.sound(MIC, 7, 9, &mut |b| heard.push(b.seq));
        store.sound(CAM, 0, 9, &mut |b| heard.push(b.seq));
        assert!(heard.is_empty());
    }
}
