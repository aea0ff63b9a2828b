//! The measuring stick: llama.cpp on the same random weights that `sage bench llm` runs on. A checkpoint in Hugging Face layout
//! flows in and becomes a GGUF file; a GGUF file flows in and its speed flows out as one line of JSON; the lines of both programs
//! flow in and become the table of ratios. `run.sh` does all of it.

mod gguf;
mod measure;
mod table;

use std::process::ExitCode;

/// What can go wrong, in one sentence.
type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "usage: peers gguf MODEL_DIR FILE bf16|q8_0|q4_0
       peers speed FILE THREADS REPEAT
       peers stop FILE THREADS
       peers table LINES JSON";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["gguf", model, file, format] => gguf::write(model.as_ref(), file.as_ref(), format),
        ["speed", file, threads, repeat] => measure::speed(file, threads, repeat),
        ["stop", file, threads] => measure::stop(file, threads),
        ["table", lines, json] => table::print(lines.as_ref(), json.as_ref()),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::from(2)
        }
    }
}
