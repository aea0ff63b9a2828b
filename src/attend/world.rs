//! A short-lived picture of the world: what the eye reported last, per camera, with capture times, and the robot's own
//! values. Results and reports flow in; the nearest things, their age, and what a decision rests on flow out.

use crate::block::reason::prompt::Direction;
use crate::types::{BasedOn, Detection, MAX_DETECTIONS, MAX_SOURCES, Nanos, SourceId, Status, Thing};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// What one camera's newest looked-at frame showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct View {
    seq: u64,
    captured: Nanos,
    detections: ArrayVec<Detection, MAX_DETECTIONS>,
}

/// The picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct World {
    views: [Option<View>; MAX_SOURCES],
    status: Option<Status>,
}

impl World {
    /// Takes what was seen in a frame; an older frame than the one known is ignored.
    pub fn saw(
        &mut self,
        source: SourceId,
        seq: u64,
        captured: Nanos,
        detections: &ArrayVec<Detection, MAX_DETECTIONS>,
    ) {
        let Some(slot) = self.views.get_mut(usize::from(source.0)) else { return };
        if slot.as_ref().is_none_or(|view| view.captured <= captured) {
            *slot = Some(View { seq, captured, detections: detections.clone() });
        }
    }

    /// Takes the robot's own values.
    pub fn feels(&mut self, status: &Status) {
        self.status = Some(*status);
    }

    /// The robot's own values, as last reported.
    pub fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    fn fresh(&self, now: Nanos, most: Nanos) -> impl Iterator<Item = (SourceId, &View)> {
        self.views
            .iter()
            .enumerate()
            .filter_map(|(index, view)| view.as_ref().map(|view| (SourceId(index as u8), view)))
            .filter(move |(_, view)| now.since(view.captured) <= most)
    }

    /// Everything seen in frames at most `most` old.
    pub fn seen(&self, now: Nanos, most: Nanos) -> impl Iterator<Item = &Detection> {
        self.fresh(now, most).flat_map(|(_, view)| view.detections.iter())
    }

    /// The nearest of a kind, with its frame.
    pub fn nearest(&self, thing: Thing, now: Nanos, most: Nanos) -> Option<(Detection, BasedOn)> {
        let mut best: Option<(Detection, BasedOn)> = None;
        for (source, view) in self.fresh(now, most) {
            for found in view.detections.iter().filter(|found| found.thing == thing) {
                let key = |d: &Detection| (d.distance_mm, d.bearing_mrad, !d.raising);
                if best.as_ref().is_none_or(|(kept, _)| key(found) < key(kept)) {
                    best = Some((*found, BasedOn { source, seq: view.seq, captured: view.captured }));
                }
            }
        }
        best
    }

    /// Distance of the nearest thing in the way to one side, among obstacles and people seen well enough.
    pub fn blocked(&self, way: Direction, now: Nanos, most: Nanos) -> Option<u32> {
        self.seen(now, most)
            .filter(|found| matches!(found.thing, Thing::Obstacle | Thing::Person))
            .filter(|found| found.score_permille >= 500 && Direction::of_bearing(found.bearing_mrad) == way)
            .map(|found| found.distance_mm)
            .min()
    }

    /// The newest looked-at frame of any camera.
    pub fn newest(&self, now: Nanos, most: Nanos) -> Option<BasedOn> {
        self.fresh(now, most)
            .map(|(source, view)| BasedOn { source, seq: view.seq, captured: view.captured })
            .max_by_key(|based| based.captured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(thing: Thing, distance_mm: u32, bearing_mrad: i16) -> Detection {
        Detection { thing, bbox_px: [0; 4], score_permille: 900, distance_mm, bearing_mrad, raising: false }
    }

    #[test]
    fn what_was_seen_fades_and_older_frames_do_not_replace_newer_ones() {
        let mut world = World::default();
        let near = [found(Thing::Person, 900, 0)].into_iter().collect();
        world.saw(SourceId(0), 5, Nanos::from_ms(500), &near);
        world.saw(SourceId(0), 4, Nanos::from_ms(400), &ArrayVec::new());
        let most = Nanos::from_ms(1000);
        let (person, based) = world.nearest(Thing::Person, Nanos::from_ms(600), most).expect("it was seen");
        assert_eq!((person.distance_mm, based.seq), (900, 5));
        assert!(world.nearest(Thing::Person, Nanos::from_ms(1501), most).is_none());
    }

    #[test]
    fn only_what_is_in_the_way_blocks() {
        let mut world = World::default();
        let mut doubtful = found(Thing::Obstacle, 100, 0);
        doubtful.score_permille = 200;
        let all =
            [doubtful, found(Thing::Obstacle, 300, -500), found(Thing::Person, 700, 50), found(Thing::Charger, 200, 0)];
        world.saw(SourceId(0), 1, Nanos::ZERO, &all.into_iter().collect());
        let at = |way| world.blocked(way, Nanos::ZERO, Nanos::ZERO);
        assert_eq!((at(Direction::Left), at(Direction::Ahead), at(Direction::Right)), (Some(300), Some(700), None));
    }
}
