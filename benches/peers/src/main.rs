//! The measuring stick: llama.cpp on the same random weights that `sage bench llm` runs on. A checkpoint in Hugging Face layout
//! flows in and becomes a GGUF file; a GGUF file flows in and its speed flows out as one line of JSON.
//!
//! `peers gguf MODEL_DIR FILE bf16|q8_0|q4_0` and `peers measure FILE THREADS REPEAT`; `run.sh` calls both.

mod gguf;
mod measure;

use std::process::ExitCode;

/// What can go wrong, in one sentence.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["gguf", model, file, format] => gguf::write(model.as_ref(), file.as_ref(), format),
        ["measure", file, threads, repeat] => measure::run(file, threads, repeat),
        _ => Err("usage: peers gguf MODEL_DIR FILE bf16|q8_0|q4_0, or: peers measure FILE THREADS REPEAT".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::from(2)
        }
    }
}
