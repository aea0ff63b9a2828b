//! `sage chat` as somebody at a terminal meets it: on a pseudo terminal, with the mind that ships. Where an answer has to be
//! interrupted, the mind's end tokens are taken away: its story then never ends by itself, and no machine is too fast for the test.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// No output for this long means that it will never come.
const PATIENCE: Duration = Duration::from_secs(120);

/// `sage chat` on a pseudo terminal.
struct Terminal {
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// What came and was not yet expected.
    shown: String,
    chat: Child,
}

impl Terminal {
    fn open(arguments: &[&str]) -> Terminal {
        let (mut master, mut slave) = (0, 0);
        let (name, modes, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
        // SAFETY: both descriptors are written by the call, which is given nothing else.
        let made = unsafe { libc::openpty(&mut master, &mut slave, name, modes, size) };
        assert_eq!(made, 0, "a pseudo terminal");
        // SAFETY: openpty succeeded, so both descriptors are open and nobody else owns them.
        let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        // SAFETY: plain calls on a descriptor of our own; the child must not hold the keyboard open.
        unsafe { libc::fcntl(master.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        let side = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_sage"));
        command.args(arguments).stdin(side()).stdout(side()).stderr(side());
        // SAFETY: only async-signal-safe calls between fork and exec: a session of its own, whose terminal is its standard input.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let chat = command.spawn().unwrap();
        let keyboard = File::from(master);
        let mut screen = keyboard.try_clone().unwrap();
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            // The read fails when the chat has ended and its side is closed.
            while let Ok(count @ 1..) = screen.read(&mut block) {
                if sender.send(block[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { keyboard, screen: receiver, shown: String::new(), chat }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` is shown; what came up to it.
    fn expect(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            match self.screen.recv_timeout(PATIENCE) {
                // All that is said here is ASCII.
                Ok(block) => self.shown.push_str(&String::from_utf8_lossy(&block)),
                Err(RecvTimeoutError::Timeout) => panic!("{text:?} is not shown, only {:?}", self.shown),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the chat ended without {text:?}, after {:?}", self.shown)
                }
            }
        }
    }

    /// Waits until the chat has ended by itself; what was still shown, and how it ended.
    fn end(mut self) -> (String, ExitStatus) {
        loop {
            match self.screen.recv_timeout(PATIENCE) {
                Ok(block) => self.shown.push_str(&String::from_utf8_lossy(&block)),
                Err(RecvTimeoutError::Disconnected) => return (self.shown.clone(), self.chat.wait().unwrap()),
                Err(RecvTimeoutError::Timeout) => panic!("the chat does not end"),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.chat.kill();
        let _ = self.chat.wait();
    }
}

fn mind() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("engines/mind")
}

/// A folder for `--assets` with the mind that ships, but without end tokens and with room for a very long answer.
fn endless_mind() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("engines/mind");
    std::fs::create_dir_all(&to).unwrap();
    for file in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        std::fs::copy(mind().join(file), to.join(file)).unwrap();
    }
    let change = |file: &Path, key: &str, value: serde_json::Value| {
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        json[key] = value;
        std::fs::write(file, json.to_string()).unwrap();
    };
    change(&to.join("generation_config.json"), "eos_token_id", serde_json::json!([]));
    change(&to.join("config.json"), "max_position_embeddings", 100_000.into());
    folder
}

#[test]
fn enter_and_ctrl_c_interrupt_an_answer_and_the_conversation_goes_on() {
    let assets = endless_mind();
    let assets = assets.path().to_str().unwrap();
    let endless = ["--context", "100000", "--max-new-tokens", "100000", "--threads", "1"];
    let mut terminal = Terminal::open(&[&["chat", "--assets", assets], &endless[..]].concat());
    terminal.expect("> ");

    terminal.press("tell me a story\n");
    terminal.expect("a small robot guarded an empty room");
    terminal.press("\n");
    terminal.expect("[interrupted]");
    let between = terminal.expect("> ");
    assert_eq!(between, "\r\n> ", "one prompt, on a line of its own");

    terminal.press("what is your name\n");
    terminal.expect("My name is Sage");
    terminal.press("\x03");
    terminal.expect("[interrupted]");
    assert_eq!(terminal.expect("> "), "\r\n> ");

    // A question typed into an answer interrupts it and is answered next.
    terminal.press("tell me a story\n");
    terminal.expect("a small robot guarded an empty room");
    terminal.press("what is your name\n");
    terminal.expect("[interrupted]");
    terminal.expect("My name is Sage");
    terminal.press("\n");
    terminal.expect("[interrupted]");
    assert_eq!(terminal.expect("> "), "\r\n> ");

    terminal.press("\x04");
    let (_, status) = terminal.end();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_finished_answer_is_not_called_interrupted_and_ctrl_c_at_the_prompt_ends() {
    let mut terminal = Terminal::open(&["chat", "--assets", env!("CARGO_MANIFEST_DIR"), "--threads", "1"]);
    terminal.expect("> ");
    terminal.press("what is your name\n");
    let answer = terminal.expect("> ");
    assert!(answer.contains("My name is Sage. I am a small robot."), "{answer:?}");
    assert!(!answer.contains("interrupted"), "{answer:?}");
    terminal.press("\x03");
    let (_, status) = terminal.end();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn pasted_lines_are_one_message() {
    let mut terminal = Terminal::open(&["chat", "--assets", env!("CARGO_MANIFEST_DIR"), "--threads", "1"]);
    terminal.expect("> ");
    let process = libc::pid_t::try_from(terminal.chat.id()).unwrap();
    // The chat stands still until the terminal has it all, which it shows.
    // SAFETY: signals to a child of our own that was not waited for.
    unsafe { libc::kill(process, libc::SIGSTOP) };
    terminal.press("hello\nwhat is\nyour name\n");
    terminal.expect("your name\r\n");
    // SAFETY: as above.
    unsafe { libc::kill(process, libc::SIGCONT) };
    let answer = terminal.expect("> ");
    assert!(answer.len() > 2 && !answer.contains("interrupted"), "{answer:?}");
    terminal.press("\x04");
    let (rest, status) = terminal.end();
    assert_eq!((rest.trim(), status.code()), ("", Some(0)));
}
