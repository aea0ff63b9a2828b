//! What one tick after the other must do: behaviour of the whole core, and properties under random inputs.

use super::*;
use crate::config::{Config, ScheduleConfig};
use crate::types::{
    Act, AudioFeatures, BANDS, CameraFeatures, Command, Detection, GRID_COLS, GRID_ROWS, HeardWord, Job, JobInput,
    Looming, MAX_WORDS, Metabolic, Name, Piece, Status, Thing, VoiceReport, Word,
};

const EYE: SourceId = SourceId(0);
const EAR: SourceId = SourceId(1);
const TICK: Nanos = Nanos::from_ms(10);

fn config(change: impl FnOnce(&mut ScheduleConfig)) -> CoreConfig {
    let mut config = Config::default();
    config.camera.push(Default::default());
    config.microphone.push(Default::default());
    change(&mut config.schedule);
    config.core()
}

fn frame(seq: u64, now: Nanos, luma: u8, growth: i32) -> CameraFeatures {
    CameraFeatures {
        source: EYE,
        seq,
        captured: now.since(TICK),
        stamp: Default::default(),
        luma: [[luma; GRID_COLS]; GRID_ROWS],
        motion: [[4; GRID_COLS]; GRID_ROWS],
        looming: Looming { growth_permille_per_s: growth, cells: 12, bearing_mrad: 0 },
        lost: 0,
    }
}

fn block(seq: u64, now: Nanos, level_cdb: i16) -> AudioFeatures {
    AudioFeatures {
        source: EAR,
        seq,
        captured: now.since(Nanos::from_ms(20)),
        stamp: Default::default(),
        band_cdb: [level_cdb; BANDS],
        level_cdb,
        heard_cdb: level_cdb,
        voice_permille: 0,
        echo_permille: 0,
        lost: 0,
    }
}

fn word(text: &str, ended: Nanos) -> HeardWord {
    HeardWord { word: Word::from(text).expect("short"), ended, score_permille: 900 }
}

fn done(job: &Job, output: Output, now: Nanos) -> LaneEvent {
    LaneEvent::Done {
        job: job.id,
        outcome: Outcome::Completed,
        output,
        steps: 1,
        busy: Nanos::from_ms(3),
        longest: Nanos::from_ms(3),
        preempted: 0,
        energy_permille: Some(0),
        at: now,
    }
}

/// A core with a quiet scene and room in front of it; lanes answer one tick later.
struct Stage {
    core: Core,
    inputs: Inputs,
    out: Outputs,
    open: Vec<Job>,
    sees: Vec<Detection>,
}

impl Stage {
    fn new(config: CoreConfig) -> Stage {
        let inputs = Inputs { now: Nanos::from_s(5), ..Inputs::default() };
        Stage { core: Core::new(config), inputs, out: Outputs::default(), open: Vec::new(), sees: Vec::new() }
    }

    /// One tick: a frame every 100 ms, a block every 20 ms, results of the jobs of the tick before; `change` adds more.
    fn tick(&mut self, change: impl FnOnce(&mut Inputs, &[Job])) {
        let inputs = &mut self.inputs;
        let (tick, now) = (inputs.tick + 1, inputs.now + TICK);
        *inputs = Inputs { tick, now, ..Inputs::default() };
        if tick % 10 == 0 {
            inputs.camera.push(frame(tick / 10, now, 90, 0));
        }
        if tick % 2 == 0 {
            inputs.audio.push(block(tick / 2, now, -5_000));
        }
        for job in self.open.extract_if(.., |job| !matches!(job.capability, Capability::Reason)) {
            let output = match job.input {
                JobInput::Sound { .. } => Output::Heard { upto: now },
                JobInput::Frame { seq } => {
                    let captured = job.based_on[0].captured;
                    Output::Seen { seq, captured, detections: self.sees.iter().copied().collect() }
                }
                _ if job.capability == Capability::Consolidate => Output::Consolidated { merged: 0 },
                _ => Output::None,
            };
            let _ = inputs.events.try_push(done(&job, output, now));
        }
        change(inputs, &self.open);
        self.core.tick(inputs, &mut self.out);
        for command in &self.out.commands {
            match command {
                Command::Submit(job) => self.open.push(job.clone()),
                Command::Cancel(id) => self.open.retain(|job| job.id != *id),
                Command::Credit { .. } => {}
            }
        }
    }

    fn run(&mut self, seconds: f32) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for _ in 0..(seconds * 100.0) as u32 {
            self.tick(|_, _| {});
            decisions.extend(self.out.decisions.iter().copied());
        }
        decisions
    }

    fn says(&mut self, text: &str) {
        self.tick(|inputs, _| {
            let now = inputs.now;
            let hearing = JobId(u64::MAX); // replaced below by a job that is open
            let words: ArrayVec<HeardWord, MAX_WORDS> = text.split(' ').map(|text| word(text, now)).collect();
            let _ =
                inputs.events.try_push(LaneEvent::Utterance { job: hearing, source: EAR, words, from: now, to: now });
        });
    }

    fn hearing_job(&mut self) -> JobId {
        loop {
            self.tick(|_, _| {});
            if let Some(job) = self.open.iter().find(|job| job.capability == Capability::Hear) {
                return job.id;
            }
        }
    }

    fn hears(&mut self, text: &str) {
        let job = self.hearing_job();
        self.tick(|inputs, _| {
            let now = inputs.now;
            let words: ArrayVec<HeardWord, MAX_WORDS> = text.split(' ').map(|text| word(text, now)).collect();
            let spoken = words.iter().map(|word| LaneEvent::Word { job, source: EAR, word: *word });
            let done = inputs.events.pop();
            inputs.events.clear();
            inputs.events.extend(spoken);
            inputs.events.push(LaneEvent::Utterance { job, source: EAR, words: words.clone(), from: now, to: now });
            inputs.events.extend(done);
        });
    }
}

fn states(decisions: &[Decision]) -> Vec<Metabolic> {
    let states = decisions.iter().filter_map(|decision| match decision {
        Decision::State { to, .. } => Some(*to),
        _ => None,
    });
    states.collect()
}

fn admitted(decisions: &[Decision], wanted: Capability) -> usize {
    let admits = |decision: &&Decision| matches!(decision, Decision::Admit { capability, .. } if *capability == wanted);
    decisions.iter().filter(admits).count()
}

#[test]
fn quiet_leads_to_rest_and_dream_and_speech_to_focus_and_back() {
    let mut stage = Stage::new(config(|_| {}));
    let quiet = stage.run(25.0);
    assert_eq!(states(&quiet), [Metabolic::Rest, Metabolic::Dream], "{:?}", stage.out.vitals);
    assert!(admitted(&quiet, Capability::Consolidate) >= 3, "dreaming consolidates");
    stage.hears("hello");
    assert_eq!(stage.out.vitals.state, Metabolic::Focus);
    assert_eq!(admitted(&stage.out.decisions, Capability::Reason), 1);
    let job = stage.open.iter().find(|job| job.capability == Capability::Reason).cloned().expect("asked");
    stage.tick(|inputs, _| inputs.events.push(done(&job, Output::None, inputs.now)));
    assert_eq!(states(&stage.run(6.5))[..1], [Metabolic::Wake]);
}

#[test]
fn sound_is_heard_in_portions_and_frames_are_seen_at_the_states_rate() {
    let mut stage = Stage::new(config(|_| {}));
    let wake = stage.run(4.0);
    let heard = admitted(&wake, Capability::Hear);
    assert!((95..=100).contains(&heard), "every 40 ms: {heard}");
    let seen = admitted(&wake, Capability::See);
    assert!((18..=22).contains(&seen), "5 a second: {seen}");
    stage.run(10.0);
    let rest = stage.run(4.0);
    let seen = admitted(&rest, Capability::See);
    assert!((3..=5).contains(&seen), "1 a second: {seen}");
}

#[test]
fn a_looming_thing_halts_in_the_very_tick_and_breaks_off_the_answer() {
    let mut stage = Stage::new(config(|_| {}));
    stage.run(1.0);
    stage.hears("tell me your story");
    let job = stage.open.iter().find(|job| job.capability == Capability::Reason).map(|job| job.id).expect("asked");
    stage.tick(|inputs, _| {
        let piece = Piece::Word { index: 0, word: Word::from("Once").expect("short") };
        inputs.events.push(LaneEvent::Piece { job, piece });
    });
    assert!(stage.out.acts.iter().any(|act| matches!(act, Act::Say { .. })));
    stage.tick(|inputs, _| {
        inputs.camera.clear();
        inputs.camera.push(frame(1_000, inputs.now, 90, 2_000));
    });
    assert!(stage.out.commands.contains(&Command::Cancel(job)));
    assert!(stage.out.acts.contains(&Act::Silence));
    assert!(stage.out.acts.iter().any(|act| matches!(act, Act::Halt { on: true, .. })));
    assert_eq!(stage.out.vitals.state, Metabolic::Crisis);
    assert!(stage.out.decisions.iter().any(|decision| matches!(decision, Decision::Cut { why: Why::Looming, .. })));
    let after = stage.run(8.0);
    assert_eq!(states(&after)[..1], [Metabolic::Wake], "and back");
    assert!(!stage.out.vitals.halted);
}

#[test]
fn what_the_eye_finds_near_halts() {
    let mut stage = Stage::new(config(|_| {}));
    stage.sees.push(Detection {
        thing: Thing::Obstacle,
        bbox_px: [0; 4],
        score_permille: 800,
        distance_mm: 250,
        bearing_mrad: 0,
        raising: false,
    });
    let decisions = stage.run(0.5);
    assert!(decisions.iter().any(|decision| matches!(decision, Decision::Halt { on: true, why: Why::TooNear, .. })));
}

#[test]
fn words_of_jobs_nobody_asked_for_are_not_obeyed() {
    let mut stage = Stage::new(config(|_| {}));
    stage.run(0.5);
    stage.says("stop");
    assert!(!stage.out.vitals.halted);
    stage.hears("stop");
    assert!(stage.out.vitals.halted);
}

#[test]
fn too_much_load_is_shed_and_hearing_is_not() {
    let mut stage = Stage::new(config(|schedule| schedule.load_ms_per_s = 2_000.0));
    let mut decisions = Vec::new();
    for _ in 0..1_000 {
        stage.tick(|inputs, _| {
            // Work really takes its time.
            for event in &mut inputs.events {
                if let LaneEvent::Done { busy, .. } = event {
                    *busy = Nanos::from_ms(30);
                }
            }
        });
        decisions.extend(stage.out.decisions.iter().copied());
    }
    let shed = |wanted: Capability| {
        let is = |decision: &&Decision| matches!(decision, Decision::Shed { capability, .. } if *capability == wanted);
        decisions.iter().filter(is).count()
    };
    assert!(shed(Capability::Load) > 20, "{}", shed(Capability::Load));
    assert_eq!(shed(Capability::Hear), 0);
}

#[test]
fn the_hash_tells_one_changed_bit_at_its_tick_and_ever_after() {
    let hashes = |change: u8| {
        let mut stage = Stage::new(config(|_| {}));
        let mut hashes = Vec::new();
        for _ in 1..60u64 {
            stage.tick(|inputs, _| match (inputs.tick, change) {
                (30, 1) => inputs.audio[0].band_cdb[3] ^= 1,
                (30, 2) => inputs.camera[0].luma[0][0] ^= 1,
                (31, 3) => inputs.skipped = 1,
                _ => {}
            });
            hashes.push((stage.inputs.tick, stage.out.state_hash));
        }
        hashes
    };
    let same = hashes(0);
    assert_eq!(same, hashes(0));
    for (change, at) in [(1, 30), (2, 30), (3, 31)] {
        let differs: Vec<u64> = same.iter().zip(hashes(change)).filter(|(a, b)| **a != *b).map(|(a, _)| a.0).collect();
        assert_eq!(differs, (at..60).collect::<Vec<_>>(), "change {change}");
    }
}

#[test]
fn every_record_fits_the_scratch_buffer() {
    let word = word("abcdefghijklmnopqrstuvwx", Nanos(u64::MAX));
    let utterance = LaneEvent::Utterance {
        job: JobId(u64::MAX),
        source: EAR,
        words: [word; MAX_WORDS].into_iter().collect(),
        from: Nanos(u64::MAX),
        to: Nanos(u64::MAX),
    };
    let found = Detection {
        thing: Thing::Hand,
        bbox_px: [u16::MAX; 4],
        score_permille: u16::MAX,
        distance_mm: u32::MAX,
        bearing_mrad: i16::MIN,
        raising: true,
    };
    let seen = Output::Seen { seq: u64::MAX, captured: Nanos(u64::MAX), detections: [found; 16].into_iter().collect() };
    for size in
        [postcard::to_allocvec(&utterance), postcard::to_allocvec(&seen)].map(|bytes| bytes.expect("bytes").len())
    {
        assert!(size < SCRATCH / 2, "{size}");
    }
    let frame = postcard::to_allocvec(&frame(u64::MAX, Nanos(u64::MAX), 255, i32::MIN)).expect("bytes").len();
    assert!(frame < SCRATCH / 2, "{frame}");
}

#[test]
fn a_keyframe_of_other_sources_or_of_nothing_is_refused() {
    let core = Core::new(config(|_| {}));
    let bytes = core.keyframe();
    assert!(bytes.len() < Core::KEYFRAME_BYTES);
    assert!(matches!(Core::from_keyframe(Config::default().core(), &bytes), Err(KeyframeError::Foreign(_))));
    assert!(matches!(Core::from_keyframe(config(|_| {}), &bytes[..100]), Err(KeyframeError::Unreadable(_))));
    let mut other = bytes.clone();
    other[0] = 99;
    assert!(matches!(Core::from_keyframe(config(|_| {}), &other), Err(KeyframeError::Foreign(_))));
}

/// Random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

/// Anything that can come: noise, hazards, words, pieces, nonsense about jobs that never were, lost sources.
fn anything(dice: &mut Dice, inputs: &mut Inputs, open: &[Job]) {
    const WORDS: [&str; 8] = ["go", "now", "<unk>", "continue", "story", "forward", "hello", "please"];
    const ACTIONS: [(&str, &str, &str); 6] = [
        ("move", "", "forward"),
        ("move", "", "back"),
        ("go", "person", "ahead"),
        ("turn", "", "left"),
        ("stop", "", ""),
        ("fly", "", ""),
    ];
    let now = inputs.now;
    for camera in &mut inputs.camera {
        camera.luma.iter_mut().flatten().for_each(|cell| *cell = dice.roll(256) as u8);
        camera.looming.growth_permille_per_s = if dice.one_in(200) { 3_000 } else { 0 };
    }
    for block in &mut inputs.audio {
        block.band_cdb.iter_mut().for_each(|band| *band = -(dice.roll(9_000) as i16));
        block.echo_permille = dice.roll(900) as u16;
        block.voice_permille = dice.roll(1_200) as u16;
    }
    if dice.one_in(50) {
        let known = !dice.one_in(4);
        inputs.status = Some(Status {
            seq: inputs.tick,
            captured: now,
            battery_percent: known.then(|| dice.roll(101) as u8),
            range_mm: dice.one_in(2).then(|| 200 + dice.roll(4_000) as u32),
            bumper: known.then(|| dice.one_in(60)),
            estop: known.then(|| dice.one_in(60)),
        });
    }
    if dice.one_in(20) {
        inputs.voice = Some(VoiceReport {
            utterance: crate::types::UtteranceId(dice.roll(20) as u32),
            played_words: dice.roll(30) as u16,
            queued_words: dice.roll(10) as u16,
            queued: Nanos::from_ms(dice.roll(4_000)),
            playing: dice.one_in(2),
            silent_since: now,
        });
    }
    inputs.release_halt = dice.one_in(200);
    if dice.one_in(300) {
        let present = dice.one_in(2);
        inputs.health.push(crate::types::SourceHealth { source: SourceId(dice.roll(10) as u8), present, dropped: 0 });
    }
    // Hearing and seeing jobs end in this very tick: what they report comes before.
    let ending: Vec<JobId> = inputs.events.iter().map(job_of).collect();
    for _ in 0..dice.roll(4) {
        let kind = dice.roll(7);
        let answers = open.last().map(|job| job.id);
        let real = if kind >= 2 { answers } else { ending.last().copied() }.filter(|_| !dice.one_in(5));
        let job = real.unwrap_or(JobId(dice.roll(1_000)));
        let spoken = if dice.one_in(100) { "stop" } else { WORDS[dice.roll(8) as usize] };
        let heard = word(spoken, now.since(Nanos::from_ms(dice.roll(3_000))));
        let (name, target, direction) = ACTIONS[dice.roll(6) as usize];
        let text = |text: &str| Name::from(text).expect("short");
        let event = match kind {
            0 => LaneEvent::Word { job, source: EAR, word: heard },
            1 if !dice.one_in(3) => continue,
            1 => {
                let words = (0..1 + dice.roll(4)).map(|_| word(WORDS[dice.roll(8) as usize], now)).collect();
                LaneEvent::Utterance { job, source: EAR, words, from: now, to: now }
            }
            2 => LaneEvent::Piece { job, piece: Piece::Word { index: dice.roll(9) as u16, word: heard.word } },
            3 => {
                let line =
                    crate::types::ActionLine { name: text(name), target: text(target), direction: text(direction) };
                LaneEvent::Piece { job, piece: Piece::Action(line) }
            }
            4 => LaneEvent::Waiting { job },
            5 => LaneEvent::Started { job, at: now },
            _ => LaneEvent::Done {
                job,
                outcome: [Outcome::Completed, Outcome::Expired, Outcome::Superseded, Outcome::Refused]
                    [dice.roll(4) as usize],
                output: Output::Heard { upto: now },
                steps: 1,
                busy: Nanos::from_ms(if dice.one_in(200) { dice.roll(3_000) } else { dice.roll(3) }),
                longest: Nanos::from_ms(5),
                preempted: 0,
                energy_permille: None,
                at: now,
            },
        };
        let _ = inputs.events.try_insert(0, event);
    }
}

#[test]
fn random_inputs_never_move_a_halted_body_and_replay_from_any_keyframe() {
    let (mut moved, mut halts) = (0, 0);
    for seed in 1..=4 {
        let (mut dice, mut stage) = (Dice(seed), Stage::new(config(|_| {})));
        let mut halted = false;
        let (mut record, mut keyframe) = (Vec::new(), Vec::new());
        for tick in 0..6_000 {
            stage.tick(|inputs, open| anything(&mut dice, inputs, open));
            stage.open.truncate(60);
            for act in &stage.out.acts {
                match act {
                    Act::Halt { on, .. } => {
                        halts += u32::from(*on && !halted);
                        halted = *on;
                    }
                    Act::Do { action, .. } if action.name.as_str() != "stop" => {
                        assert!(!halted, "seed {seed}, tick {tick}: {action:?} while halted");
                        moved += 1;
                    }
                    _ => {}
                }
            }
            assert_eq!(halted, stage.out.vitals.halted);
            assert!(stage.out.vitals.salience.iter().all(|s| (0.0..=1.0).contains(&s.total)));
            if tick == 3_000 {
                keyframe = stage.core.keyframe();
            }
            record.push((stage.inputs.clone(), stage.out.clone()));
        }
        assert!(stage.core.keyframe().len() < Core::KEYFRAME_BYTES);

        let mut whole = Core::new(config(|_| {}));
        let mut half = Core::from_keyframe(config(|_| {}), &keyframe).expect("its own keyframe");
        let mut out = Outputs::default();
        for (tick, (inputs, want)) in record.iter().enumerate() {
            whole.tick(inputs, &mut out);
            assert_eq!(&out, want, "seed {seed}, tick {tick}");
            if tick > 3_000 {
                half.tick(inputs, &mut out);
                assert_eq!(&out, want, "seed {seed}, tick {tick}, from the keyframe");
            }
        }
    }
    assert!(halts > 20 && moved > 20, "the test reaches both: {halts} halts, {moved} motions");
}

#[test]
fn decisions_of_quiet_minutes_are_few_and_none_is_lost() {
    let (mut dice, mut stage, mut decisions) = (Dice(11), Stage::new(config(|_| {})), 0);
    for tick in 0..30_000u64 {
        stage.tick(|inputs, _| {
            for block in &mut inputs.audio {
                block.band_cdb.iter_mut().for_each(|band| *band += dice.roll(400) as i16 - 200);
            }
        });
        decisions += stage.out.decisions.len();
        assert_eq!(stage.out.overflow, 0, "tick {tick}");
    }
    assert!(decisions < 30_000, "{decisions} in 300 s");
}
