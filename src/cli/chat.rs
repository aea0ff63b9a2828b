//! `sage chat`: a conversation in the terminal. Lines flow in, answers stream out; Enter or Ctrl-C interrupts an answer, and a
//! line typed meanwhile is the next question.

use super::Verdict;
use super::language_model::{ModelArgs, ModelFiles, Speaker};
use crate::engine::CancelToken;
use crate::model::chat::END_OF_TURN;
use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::SIGINT;
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Arguments of `sage chat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens the conversation may hold; the oldest turns are forgotten first.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    context: usize,
}

/// Lines that may wait while an answer is given; the terminal holds what is typed beyond.
const WAITING_LINES: usize = 16;

/// Lines that follow each other faster than this were not typed.
const PASTE_MS: i32 = 20;

/// What the person does.
enum Event {
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, or the end of a file.
    End,
}

/// Whether an answer is being given, and how to stop it.
#[derive(Clone, Default)]
struct Floor {
    answering: Arc<AtomicBool>,
    cancel: CancelToken,
}

impl Floor {
    /// Stops the answer that is being given; whether there was one.
    fn interrupt(&self) -> bool {
        let answering = self.answering.load(SeqCst);
        if answering {
            self.cancel.cancel();
        }
        answering
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let files = ModelFiles::open(&args.model)?;
    let speaker = files.start((args.model.threads(), args.model.mode), args.context)?;
    let floor = Floor::default();
    let events = listen(&floor)?;
    let mut talk = Talk { speaker, floor, turns: Vec::new(), asked: 0 };
    if io::stdin().is_terminal() {
        writeln!(io::stdout(), "Enter or Ctrl-C interrupts an answer; /new starts over; Ctrl-D ends.")?;
    }
    loop {
        write!(io::stdout(), "> ")?;
        io::stdout().flush()?;
        match events.recv() {
            Ok(Event::Line(line)) => match line.trim() {
                "" => {}
                "/new" => talk.turns.clear(),
                said => talk.turn(said, &args.model)?,
            },
            Ok(Event::Interrupt | Event::End) | Err(_) => break,
        }
    }
    writeln!(io::stdout())?;
    Ok(Verdict::Good)
}

/// Starts the threads that wait for lines and for Ctrl-C. Lines from a file do not interrupt: they wait for their turn.
fn listen(floor: &Floor) -> anyhow::Result<Receiver<Event>> {
    let (sender, events) = bounded(WAITING_LINES);
    let mut signals = signal_hook::iterator::Signals::new([SIGINT])?;
    let (on_signal, at_signal) = (sender.clone(), floor.clone());
    std::thread::Builder::new().name("chat-signal".into()).spawn(move || {
        for _ in signals.forever() {
            // Ctrl-C during an answer stops the answer only.
            if !at_signal.interrupt() && on_signal.send(Event::Interrupt).is_err() {
                return;
            }
        }
    })?;
    let at_line = floor.clone();
    std::thread::Builder::new().name("chat-lines".into()).spawn(move || read_lines(&sender, &at_line))?;
    Ok(events)
}

fn read_lines(events: &Sender<Event>, floor: &Floor) {
    let person = io::stdin().is_terminal();
    let mut input = io::stdin().lock();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let mut open = matches!(input.read_until(b'\n', &mut bytes), Ok(1..));
        let stopped = person && open && floor.interrupt();
        // Lines that come at once were pasted: they are one message.
        while person && open && more_is_typed() {
            open = matches!(input.read_until(b'\n', &mut bytes), Ok(1..));
        }
        let line = String::from_utf8_lossy(&bytes);
        // Enter that stopped an answer is no line of its own.
        let nothing = line.is_empty() || stopped && line.trim().is_empty();
        if !nothing && events.send(Event::Line(line.into_owned())).is_err() {
            return;
        }
        if !open {
            break;
        }
    }
    let _ = events.send(Event::End);
}

/// Whether the terminal has another line, or gets one before a person could have typed it.
fn more_is_typed() -> bool {
    let mut input = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor is passed with its count, and it outlives the call.
    unsafe { libc::poll(&mut input, 1, PASTE_MS) == 1 && input.revents & libc::POLLIN != 0 }
}

/// A conversation.
struct Talk {
    speaker: Speaker,
    floor: Floor,
    /// Tokens of each turn, question and answer; the first begins with the system message.
    turns: Vec<Vec<u32>>,
    /// Questions so far: each draws from a seed of its own.
    asked: u64,
}

impl Talk {
    fn turn(&mut self, said: &str, args: &ModelArgs) -> anyhow::Result<()> {
        let files = &self.speaker.files;
        let first = files.first_turn(said)?;
        let context = self.speaker.decoder.options().context;
        if files.single_turns {
            self.turns.clear();
        }
        let next = if self.turns.is_empty() {
            first
        } else {
            let text = format!("<|im_start|>user\n{said}{END_OF_TURN}<|im_start|>assistant\n");
            files.tokenizer.encode(&text)?
        };
        if next.len() >= context {
            eprintln!(
                "that has {} tokens, but the conversation holds {context}; say less or raise --context",
                next.len()
            );
            return Ok(());
        }
        // Room for half an answer at least; what is oldest goes first, the system message stays with the first turn.
        let room = args.max_new_tokens.min(context / 4);
        while self.turns.len() > 1 && self.turns.iter().map(Vec::len).sum::<usize>() + next.len() + room > context {
            self.turns.remove(1);
        }
        let mut prompt = self.turns.concat();
        prompt.extend_from_slice(&next);
        if prompt.len() + room > context && self.turns.len() == 1 {
            self.turns.clear();
            return self.turn(said, args);
        }
        let tokens = self.answer(&prompt, args)?;
        let close = self.speaker.files.tokenizer.encode(END_OF_TURN)?;
        self.turns.push([next, tokens, close].concat());
        Ok(())
    }

    /// Streams the answer and returns its tokens, as far as it came.
    fn answer(&mut self, prompt: &[u32], args: &ModelArgs) -> anyhow::Result<Vec<u32>> {
        let mut out = io::stdout();
        self.floor.cancel.reset();
        self.floor.answering.store(true, SeqCst);
        let how = (args.max_new_tokens, args.seed.wrapping_add(self.asked));
        self.asked += 1;
        let answer = self.speaker.answer(prompt, how, (&self.floor.cancel, None), |piece| {
            out.write_all(piece.as_bytes())?;
            out.flush()
        });
        self.floor.answering.store(false, SeqCst);
        let answer = answer?;
        writeln!(out, "{}", if answer.finish.is_none() { " [interrupted]" } else { "" })?;
        Ok(answer.tokens)
    }
}
