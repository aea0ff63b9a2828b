//! What `demo` and `run` show while they run and leave behind: the page or plain lines, the table, `report.json`, the
//! latency picture. A run's events flow in; text and files flow out.

use super::Verdict;
use crate::config::CoreConfig;
use crate::observe::view::{Page, Scoreboard};
use crate::observe::{Tally, Timing, svg};
use crate::robot::session::{Finished, Watch};
use crate::robot::{Claim, TickRecord};
use crate::whole_file;
use anyhow::Context;
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// The page is redrawn this often.
const REDRAW: Duration = Duration::from_millis(150);

/// Shows a run: a page on a terminal, else lines, or JSON lines.
pub struct Screen {
    title: String,
    json: bool,
    page: Option<Page>,
    board: Scoreboard,
    drawn: Option<Instant>,
}

impl Screen {
    /// A screen for this run.
    pub fn new(title: &str, json: bool, plain: bool) -> Screen {
        let page = (!json && !plain && io::stdout().is_terminal()).then(|| Page::open().ok()).flatten();
        Screen { title: title.to_owned(), json, page, board: Scoreboard::default(), drawn: None }
    }

    fn line(&self, line: &str) {
        if self.json {
            let _ = writeln!(io::stdout(), "{}", json!({ "line": line.trim_start() }));
        } else if self.page.is_none() {
            let _ = writeln!(io::stdout(), "{line}");
        }
    }
}

impl Watch for Screen {
    fn started(&mut self, config: &CoreConfig, claims: &[Claim], engines: &[String]) {
        self.line(&format!("{} at {} Hz; Ctrl-C ends it", self.title, config.rate_hz));
        for engine in engines {
            self.line(&format!("  {engine}"));
        }
        for claim in claims.iter().filter(|claim| !claim.achieved) {
            self.line(&format!("  {}", claim.sentence));
        }
    }

    fn tick(&mut self, record: &TickRecord, timing: Timing) {
        let lines = self.board.tick(&record.inputs, &record.outputs, timing);
        for line in lines {
            self.line(&line);
        }
    }

    fn refresh(&mut self, tally: &mut Tally) {
        if let Some(page) = &mut self.page
            && self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW)
        {
            self.drawn = Some(Instant::now());
            let _ = page.draw(&self.board, tally, &self.title);
        }
    }

    fn note(&mut self, line: &str) {
        tracing::warn!("{line}");
        self.line(&format!("         note    {line}"));
    }
}

/// A flag that SIGINT and SIGTERM set; SIGUSR1 releases a latched halt.
pub fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal ends the process at once, should the first be ignored.
        signal_hook::flag::register_conditional_shutdown(signal, 3, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    // SAFETY: the handler only stores to an atomic.
    unsafe { signal_hook::low_level::register(signal_hook::consts::SIGUSR1, crate::robot::request_release) }?;
    Ok(stop)
}

/// Prints the table or the JSON report and writes `report.json` and `latency.svg` into `out`.
pub fn finish(finished: Finished, out: Option<&Path>, as_json: bool) -> anyhow::Result<Verdict> {
    let report = &finished.report;
    if let Some(out) = out {
        let text = serde_json::to_string_pretty(report)?;
        write_whole(&out.join("report.json"), text.as_bytes())?;
        let (lateness, work) = finished.tally.timing();
        let panels = [
            svg::Panel { title: "wake-up lateness of the tick", histogram: lateness },
            svg::Panel { title: "work of the tick", histogram: work },
        ];
        write_whole(&out.join("latency.svg"), svg::draw(&panels).as_bytes())?;
    }
    let mut stdout = io::stdout();
    if as_json {
        writeln!(stdout, "{}", serde_json::to_string(report)?)?;
    } else {
        writeln!(stdout, "\n{}", report.table())?;
        let recordings: Vec<String> = finished
            .recording
            .iter()
            .flat_map(|summary| &summary.files)
            .map(|file| file.display().to_string())
            .collect();
        if let Some(out) = out {
            writeln!(stdout, "  report      {}", out.join("report.json").display())?;
            writeln!(stdout, "  picture     {}", out.join("latency.svg").display())?;
        }
        if !recordings.is_empty() {
            writeln!(stdout, "  recording   {}", recordings.join(", "))?;
        }
        if let Some(first) = recordings.first() {
            writeln!(stdout, "  check it    sage replay {first} --verify --from-sensors")?;
        }
    }
    for (what, lost) in finished.recording.iter().flat_map(|summary| &summary.lost) {
        eprintln!("sage: the recorder had to drop {lost} of {what}");
    }
    if let Some(stopped) = finished.recording.as_ref().and_then(|summary| summary.stopped.as_ref()) {
        eprintln!("sage: {stopped}");
    }
    if finished.records_dropped > 0 {
        eprintln!("sage: {} tick records found nobody to take them", finished.records_dropped);
    }
    Ok(match finished.diverged {
        Some(tick) => {
            eprintln!("sage: the second core decided otherwise in tick {tick}; please report this with the recording");
            Verdict::CheckFailed
        }
        None => Verdict::Good,
    })
}

/// Writes a file whole or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    whole_file::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}
