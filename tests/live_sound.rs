//! The live sound parts against a real sound server (see `live_sound.sh`, which starts one): speech is captured, the
//! server dies and returns, and the robot's own voice, played for real and heard for real, does not count as a voice.
#![cfg(feature = "live")]

use sage::act::body::Voice;
use sage::act::mouth::EspeakVoice;
use sage::config::{MicrophoneConfig, VoiceConfig};
use sage::sense::feed::{Intake, NoRecorder, connect};
use sage::sense::microphone::Microphone;
use sage::sense::played::PlayedSound;
use sage::sense::store::SensorStore;
use sage::time::{Clock, Monotonic};
use sage::types::{AudioFeatures, Inputs, Nanos, SourceId, SourceKind, UtteranceId, Word};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

/// Nothing here takes longer than this, however slow the machine.
const PATIENCE: Nanos = Nanos::from_s(30);

/// True if `live_sound.sh` has prepared a server.
fn prepared() -> bool {
    let prepared = std::env::var_os("SAGE_LIVE_SOUND").is_some();
    if !prepared {
        println!("skipped: run tests/live_sound.sh, which starts a sound server for it");
    }
    prepared
}

struct Listener {
    _microphone: Microphone,
    intake: Intake,
    heard: Vec<AudioFeatures>,
    present: bool,
}

impl Listener {
    fn start(played: Option<Arc<PlayedSound>>) -> Listener {
        let store = Arc::new(SensorStore::new(1));
        let (feed, ring) = connect(SourceId(0), SourceKind::Microphone, 0.0, store, Arc::new(NoRecorder));
        let config = MicrophoneConfig::default();
        let microphone = Microphone::start(config, feed, played, Arc::new(Monotonic)).expect("a thread");
        Listener { _microphone: microphone, intake: Intake::new(vec![ring]), heard: Vec::new(), present: false }
    }

    /// Listens until `enough` says so; panics with `what` if that takes too long.
    fn until(&mut self, what: &str, mut enough: impl FnMut(&Listener) -> bool) {
        let start = Monotonic.now();
        while !enough(self) {
            assert!(Monotonic.now().since(start) < PATIENCE, "{what}: {} blocks heard", self.heard.len());
            let mut inputs = Inputs::default();
            self.intake.drain_into(&mut inputs);
            self.heard.extend(inputs.audio.iter().copied());
            if let Some(health) = inputs.health.first() {
                self.present = health.present;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn voiced(&self, from: usize) -> usize {
        self.heard[from.min(self.heard.len())..].iter().filter(|f| f.voice_permille > 500).count()
    }
}

/// Speech from the loudspeaker, over and over (a busy machine may swallow some of it), until dropped.
struct Player(Child);

impl Player {
    fn start() -> Player {
        let again = "while paplay -d v \"$SAGE_SPEECH\"; do :; done";
        Player(Command::new("sh").args(["-c", again]).process_group(0).spawn().expect("sh"))
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

fn server(what: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live_sound.sh");
    assert!(Command::new(script).args(["server", what]).status().expect("the script").success());
}

#[test]
fn speech_is_captured_with_steady_time_stamps_and_survives_the_server() {
    if !prepared() {
        return;
    }
    let mut listener = Listener::start(None);
    listener.until("silence is delivered", |l| l.heard.len() > 60);
    assert_eq!(listener.voiced(0), 0, "nobody has spoken yet");
    let (from, spoken) = (listener.heard.len(), Monotonic.now());
    let player = Player::start();
    listener.until("speech is heard", |l| l.voiced(from) > 40);
    drop(player);
    let first = listener.heard[from..].iter().find(|f| f.voice_permille > 500).expect("heard");
    // A busy sound server errs by tens of milliseconds about when it captured what.
    let captured = spoken.since(Nanos::from_ms(200))..Monotonic.now();
    assert!(captured.contains(&first.captured), "captured while it was spoken: {first:?}, {captured:?}");
    assert!(first.level_cdb > -5_000, "{first:?}");
    for pair in listener.heard.windows(2).filter(|p| p[1].seq == p[0].seq + 1 && p[1].lost == 0) {
        let step = pair[1].captured.since(pair[0].captured);
        assert!(step > Nanos::from_ms(5) && step < Nanos::from_ms(35), "{step:?} between blocks");
    }

    server("stop");
    listener.until("the loss is noticed", |l| !l.present);
    let from = listener.heard.len();
    server("start");
    listener.until("it is taken up again", |l| l.present && l.heard.len() > from + 60);
    assert!(listener.heard[from].lost > 0, "the gap shows");
    let from = listener.heard.len();
    let _player = Player::start();
    listener.until("speech is heard again", |l| l.voiced(from) > 40);
}

#[test]
fn own_voice_is_played_timed_silenced_and_not_taken_for_somebody() {
    if !prepared() {
        return;
    }
    let played = Arc::new(PlayedSound::new());
    let clock: Arc<dyn Clock> = Arc::new(Monotonic);
    let mut voice = EspeakVoice::start(&VoiceConfig::default(), Arc::clone(&played), clock).expect("espeak-ng");
    let mut listener = Listener::start(Some(played));
    listener.until("silence is delivered", |l| l.heard.len() > 60);
    let text = "i went down the long corridor and found a small green door near the charging station today";
    let words: Vec<&str> = text.split(' ').collect();
    let (mut said, mut played) = (0u16, 0u16);
    // It goes on talking until it has known its own voice for a while: 1.5 s in which most of the sound is explained and
    // hardly any counts as somebody's. The filter has to learn the path first, and again whenever a busy machine stumbles.
    listener.until("the robot hears itself and knows it", |l| {
        played = voice.report(Monotonic.now()).played_words;
        while said < played + 12 {
            let word = words[usize::from(said) % words.len()];
            voice.say(Monotonic.now(), UtteranceId(1), said, &Word::from(word).expect("short"));
            said += 1;
        }
        let last = &l.heard[l.heard.len().saturating_sub(75)..];
        let own = last.iter().filter(|f| f.echo_permille > 500).count();
        let mistaken = last.iter().filter(|f| f.voice_permille > 500).count();
        own >= 40 && mistaken <= 3
    });

    let silenced = Monotonic.now();
    voice.silence(silenced);
    let report = voice.report(Monotonic.now());
    assert!(
        !report.playing && report.played_words >= played && report.silent_since < silenced.after(Nanos::from_ms(500))
    );
    let quiet = |l: &Listener| l.heard.iter().rev().take(10).all(|f| f.level_cdb < -5_500 && f.echo_permille == 0);
    listener.until("it is silent", quiet);
    let stopped = listener.heard.iter().rev().find(|f| f.echo_permille > 500).expect("spoken").captured;
    println!("silence reached the microphone {} ms after it was asked for", stopped.since(silenced).as_ms());
    assert!(stopped < silenced.after(Nanos::from_s(2)), "{} ms", stopped.since(silenced).as_ms());
}

#[test]
fn devices_are_listed() {
    if !prepared() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_sage")).args(["devices", "--json"]).output().expect("sage");
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let microphone = listed["devices"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|d| d["kind"] == "microphone" && d["device"] == "default");
    assert!(output.status.success() && microphone, "{listed}");
}
