//! The shipped eye on pictures it never saw: rooms, floors and colours of families kept out of training, drawn here from seeds.
//! What a user notices: things are found, near is told from far, left from right, a raised hand is seen, and steps can be interrupted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sage::engine::cpu::eye::decode::{Found, FoundList, iou};
use sage::engine::cpu::eye::net::{GRID, GRID_H, GRID_W, STEPS};
use sage::engine::cpu::eye::{Eye, LEAST_SCORE};
use sage::engine::cpu::simd::Simd;
use sage::engine::{CancelToken, Engine, EngineError, Progress, SensorReader, StepSink, step};
use sage::sense::scene::camera::Direction;
use sage::sense::scene::{
    Class, FRAME_BYTES, Obstacle, Person, Scene, Split, Track, Truth, World, render, render_with_truth,
};
use sage::types::{AudioBlock, Capability, Frame, Job, JobId, JobInput, Nanos, Output, SourceId, Thing};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

fn eye(simd: Simd) -> Eye {
    Eye::load(&root().join("engines/eye/eye.safetensors"), simd).expect("the shipped weights load")
}

/// One picture: what was found at any score, what was there, and what the program would report.
struct Judged {
    found: FoundList,
    truth: Vec<Truth>,
    reported: FoundList,
}

fn judge(eye: &Eye, split: Split, first: u64, count: u64) -> Vec<Judged> {
    let mut frame = vec![0; FRAME_BYTES];
    (first..first + count)
        .map(|seed| {
            let truth = render_with_truth(&World::random(seed, split), 0.0, &mut frame);
            let mut look = eye.begin(&frame);
            while look.step(&|| false) {}
            Judged { found: look.found(0.02), truth, reported: look.found(LEAST_SCORE) }
        })
        .collect()
}

fn bbox(t: &Truth) -> [f32; 4] {
    [t.extent.x0, t.extent.y0, t.extent.x1, t.extent.y1]
}

/// Average precision at IoU 0.5: area under the interpolated precision-recall curve, as in the PASCAL VOC development kit 2010 and later;
/// detections that match a thing marked hard count neither way. Also returns the matches with a score over 0.35.
fn average_precision(judged: &[Judged], class: Class) -> (f64, Vec<(Found, Truth)>) {
    let of_class = |f: &Found| f.thing as usize == class as usize;
    let mut ranked: Vec<(usize, Found)> = judged
        .iter()
        .enumerate()
        .flat_map(|(i, j)| j.found.iter().copied().filter(of_class).map(move |f| (i, f)))
        .collect();
    ranked.sort_by(|a, b| b.1.score.total_cmp(&a.1.score));
    let wanted = judged.iter().flat_map(|j| &j.truth).filter(|t| t.class == class && !t.hard).count();
    let mut taken: Vec<Vec<bool>> = judged.iter().map(|j| vec![false; j.truth.len()]).collect();
    let (mut hits, mut curve, mut matches) = (0usize, Vec::new(), Vec::new());
    for (i, f) in ranked {
        let best = (judged[i].truth.iter().enumerate())
            .filter(|(_, t)| t.class == class)
            .map(|(k, t)| (iou(&f.bbox, &bbox(t)), k))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|b| b.0 >= 0.5);
        if let Some((_, k)) = best {
            if judged[i].truth[k].hard {
                continue;
            }
            if !taken[i][k] {
                taken[i][k] = true;
                hits += 1;
                if f.score >= LEAST_SCORE {
                    matches.push((f, judged[i].truth[k]));
                }
            }
        }
        curve.push((hits as f64 / wanted as f64, hits as f64 / (curve.len() + 1) as f64));
    }
    let (mut area, mut highest, mut right) = (0.0, 0.0f64, curve.last().map_or(0.0, |c| c.0));
    for (recall, precision) in curve.iter().rev() {
        area += (right - recall) * highest;
        highest = highest.max(*precision);
        right = *recall;
    }
    (area + right * highest, matches)
}

fn median(mut v: Vec<f32>) -> f32 {
    v.sort_by(f32::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(f32::NAN)
}

/// Prints the figures and returns (mAP50, median relative error of the distance, share of right directions).
fn figures(name: &str, judged: &[Judged]) -> (f64, f32, f64) {
    let (mut sum, mut errors, mut right) = (0.0, Vec::new(), 0usize);
    for class in Class::ALL {
        let (ap, matches) = average_precision(judged, class);
        let e: Vec<f32> = matches.iter().map(|(f, t)| (f.distance_m / t.distance_m - 1.0).abs()).collect();
        println!(
            "{name}: {:8} AP50 {ap:.3}, distance error {:.1} % (n = {})",
            class.word(),
            median(e.clone()) * 100.0,
            e.len()
        );
        right += matches.iter().filter(|(f, t)| Direction::of(f.bearing_rad) == t.direction()).count();
        errors.extend(e);
        sum += ap / 4.0;
    }
    let (error, share) = (median(errors.clone()), right as f64 / errors.len() as f64);
    println!(
        "{name}: mAP50 {sum:.3}, distance error {:.1} %, direction right {:.1} %, {} pictures",
        error * 100.0,
        share * 100.0,
        judged.len()
    );
    (sum, error, share)
}

#[test]
fn things_in_rooms_and_colours_never_trained_on_are_found() {
    let eye = eye(Simd::best());
    figures("trained families, new seeds", &judge(&eye, Split::Train, 8_500_000, 200));
    let judged = judge(&eye, Split::HeldOut, 9_500_000, 500);
    let (map, distance, direction) = figures("held-out families and hues", &judged);
    assert!(map >= 0.88, "mAP50 {map:.3}");
    assert!(distance <= 0.15, "median distance error {distance:.3}");
    assert!(direction >= 0.93, "directions right {direction:.3}");

    // People well in view whose box is found: does the program say rightly whether they raise a hand?
    let mut said = [[0usize; 2]; 2];
    for j in &judged {
        for t in j.truth.iter().filter(|t| t.class == Class::Person && !t.hard && t.visible > 0.8 && t.distance_m < 4.5)
        {
            let person = |f: &&Found| f.thing == Thing::Person && iou(&f.bbox, &bbox(t)) > 0.5;
            if let Some(f) = j.reported.iter().find(person) {
                said[usize::from(t.raising)][usize::from(f.raising)] += 1;
            }
        }
    }
    println!(
        "raising: claimed {} of {} times rightly, {} of {} wrongly",
        said[1][1],
        said[1][0] + said[1][1],
        said[0][1],
        said[0][0] + said[0][1]
    );
    assert!(said[1][1] * 100 >= (said[1][0] + said[1][1]) * 75, "{said:?}");
    assert!(said[0][1] * 100 <= (said[0][0] + said[0][1]) * 8, "{said:?}");
}

#[test]
fn the_scenes_that_ship_are_seen_as_they_are() {
    let eye = eye(Simd::best());
    let mut frame = vec![0; FRAME_BYTES];
    for name in Scene::NAMES {
        let scene = Scene::named(name).expect("a shipped scene");
        let (mut there, mut seen, mut invented) = (0usize, 0usize, Vec::new());
        for second in (0..scene.seconds as u32).step_by(2) {
            let truth = render_with_truth(&scene.world, f64::from(second), &mut frame);
            let reported = eye.look(&frame, LEAST_SCORE);
            let same = |f: &Found, t: &Truth| f.thing as usize == t.class as usize && iou(&f.bbox, &bbox(t)) > 0.4;
            let plain = truth.iter().filter(|t| !t.hard && t.class != Class::Hand);
            for t in plain {
                there += 1;
                seen += usize::from(reported.iter().any(|f| same(f, t)));
            }
            let extra = |f: &&Found| f.thing != Thing::Hand && !truth.iter().any(|t| same(f, t));
            invented.extend(reported.iter().filter(extra).map(|f| (second, f.thing, f.score)));
        }
        println!("{name}: {seen} of {there} things seen; invented {invented:?}");
        assert!(
            seen * 100 >= there * 92 && invented.len() * 25 <= there.max(25),
            "{name}: {seen} of {there}, {invented:?}"
        );
    }
}

#[test]
fn a_raised_hand_is_seen_and_a_lowered_one_is_not() {
    let eye = eye(Simd::best());
    let mut frame = vec![0; FRAME_BYTES];
    let (mut up, mut down, mut n) = (0, 0, 0);
    for seed in 0..60u64 {
        let x = (seed % 7) as f32 * 0.3 - 0.9;
        let z = 1.9 + (seed % 5) as f32 * 0.5;
        let world = World::builder(700_000 + seed)
            .person(Person::on(Track::still(x, z)).raises_arm(1.0, 3.0, seed % 2 == 0))
            .build();
        let mut raising = |t: f64| {
            render(&world, t, &mut frame);
            eye.look(&frame, LEAST_SCORE).iter().any(|f| f.thing == Thing::Person && f.raising)
        };
        up += usize::from(raising(2.0));
        down += usize::from(raising(0.0));
        n += 1;
    }
    println!("raising: {up} of {n} raised, {down} of {n} lowered");
    assert!(
        up * 100 >= n * 85 && down * 100 <= n * 5,
        "{up} of {n} raised hands seen, {down} of {n} lowered ones claimed"
    );
}

#[test]
fn a_barrel_that_rolls_at_the_robot_comes_nearer_frame_by_frame() {
    let eye = eye(Simd::best());
    let world = World::builder(5)
        .obstacle(Obstacle::rolling_barrel(Track::from(0.0, 0.5, 5.0).to(8.0, 0.0, 0.9)).height_m(0.5))
        .charger(Track::still(-1.5, 3.0))
        .build();
    let mut frame = vec![0; FRAME_BYTES];
    let seen: Vec<(f32, f32)> = (0..9)
        .filter_map(|t| {
            let truth = render_with_truth(&world, f64::from(t), &mut frame);
            let real = truth.iter().find(|t| t.class == Class::Obstacle)?.distance_m;
            let best = eye
                .look(&frame, LEAST_SCORE)
                .iter()
                .filter(|f| f.thing == Thing::Obstacle)
                .map(|f| f.distance_m)
                .fold(f32::MAX, f32::min);
            Some((best, real))
        })
        .collect();
    println!("nearest obstacle, seen and real: {seen:.2?}");
    assert_eq!(seen.len(), 9);
    assert!(seen.windows(2).all(|w| w[1].0 < w[0].0), "each frame nearer: {seen:?}");
    assert!(seen.iter().all(|(s, r)| (s / r - 1.0).abs() < 0.3), "{seen:?}");
}

#[test]
fn the_engine_agrees_with_torch() {
    let folder = root().join("tests/reference/eye");
    let picture = std::fs::read(folder.join("picture.rgb")).expect("the reference picture is in the repository");
    let want = std::fs::read(folder.join("grid.f16")).expect("the reference output is in the repository");
    let want: Vec<f32> = want.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    assert_eq!(want.len(), GRID_H * GRID_W * 9);
    for simd in [Simd::Scalar, Simd::Avx2, Simd::Avx512] {
        let eye = eye(simd);
        let mut look = eye.begin_reduced(&picture);
        while look.step(&|| false) {}
        let worst = (0..GRID_H * GRID_W * 9)
            .map(|i| (look.grid()[GRID.at(i / 9 / GRID_W, i / 9 % GRID_W) + i % 9] - want[i]).abs())
            .fold(0.0f32, f32::max);
        println!("{}: largest difference to torch {worst:.4}", simd.supported().name());
        assert!(worst <= 1e-2, "{simd:?}: {worst}");
    }
}

#[test]
fn interrupted_and_interleaved_steps_give_the_very_same_numbers() {
    let eye = eye(Simd::best());
    let (mut a, mut b) = (vec![0; FRAME_BYTES], vec![0; FRAME_BYTES]);
    render(&World::random(9_700_001, Split::HeldOut), 0.0, &mut a);
    render(&World::random(9_700_002, Split::HeldOut), 0.0, &mut b);
    let mut alone = eye.begin(&a);
    while alone.step(&|| false) {}
    let (mut first, mut second) = (eye.begin(&a), eye.begin(&b));
    for s in 0..STEPS {
        // The first try of each step is stopped after one operation.
        let asked = std::cell::Cell::new(0);
        first.step(&|| asked.replace(asked.get() + 1) > 0);
        assert_eq!(first.done(), s, "a stopped step does not count");
        second.step(&|| false);
        first.step(&|| false);
    }
    assert_eq!(first.done(), STEPS);
    assert!(first.grid() == alone.grid(), "bits differ");
    assert!(second.grid() != alone.grid());
}

struct OneFrame(Arc<Frame>);

impl SensorReader for OneFrame {
    fn frame(&self, _: SourceId, seq: u64) -> Option<Arc<Frame>> {
        (seq == self.0.seq).then(|| Arc::clone(&self.0))
    }
    fn sound(&self, _: SourceId, _: u64, _: u64, _: &mut dyn FnMut(&AudioBlock)) {}
}

fn job(seq: u64) -> Job {
    Job {
        id: JobId(1),
        capability: Capability::See,
        source: SourceId(0),
        generation: 1,
        class: sage::types::Class::Awareness,
        input: JobInput::Frame { seq },
        created: Nanos::default(),
        deadline: Nanos::default(),
        fresh_until: Nanos::default(),
        credit_words: 0,
        based_on: arrayvec::ArrayVec::new(),
    }
}

#[test]
fn as_an_engine_it_answers_a_job_in_steps_and_can_be_cancelled() {
    let mut eye = eye(Simd::best());
    let mut bytes = vec![0; FRAME_BYTES];
    render(&World::builder(3).person(Person::on(Track::still(0.4, 2.4)).height_m(1.75)).build(), 0.0, &mut bytes);
    let sensors = OneFrame(Arc::new(Frame { seq: 42, width: 640, height: 480, bytes, ..Frame::default() }));
    let (cancel, mut sink) = (CancelToken::default(), StepSink::default());
    let mut session = eye.open(&job(42), &sensors).expect("the frame is there");
    cancel.cancel();
    assert_eq!(step(&mut *session, &cancel, &mut sink).expect("no fault"), Progress::Stopped);
    cancel.reset();
    for _ in 1..STEPS {
        assert_eq!(step(&mut *session, &cancel, &mut sink).expect("no fault"), Progress::More);
        assert!(sink.output.is_none());
    }
    assert_eq!(step(&mut *session, &cancel, &mut sink).expect("no fault"), Progress::Done);
    let Some(Output::Seen { seq: 42, detections, .. }) = sink.output else {
        panic!("no detections: {:?}", sink.output)
    };
    let person = detections.iter().find(|d| d.thing == Thing::Person).expect("the person is seen");
    assert!((1800..=2900).contains(&person.distance_mm) && (80..=250).contains(&person.bearing_mrad), "{person:?}");
    assert!(matches!(eye.open(&job(41), &sensors), Err(EngineError::InputGone(_))));
    let small = OneFrame(Arc::new(Frame {
        seq: 42,
        width: 320,
        height: 240,
        bytes: vec![0; 320 * 240 * 3],
        ..Frame::default()
    }));
    let refused = eye.open(&job(42), &small).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused.contains("640x480"), "{refused}");
}

#[test]
fn weights_that_are_no_weights_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("eye.safetensors");
    std::fs::write(&file, b"not weights").expect("written");
    let said = Eye::load(&file, Simd::Scalar).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(said.contains("eye.safetensors") && said.contains("not a safetensors file"), "{said}");
}
