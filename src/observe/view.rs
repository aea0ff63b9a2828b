//! The live view of a run: a terminal page redrawn a few times a second, or plain lines where the output is no terminal.
//! Tick records flow in; text flows out. It runs on an edge thread and never touches the tick.

use super::{Tally, Timing};
use crate::types::{Capability, Command, Decision, Inputs, JobId, LaneEvent, Metabolic, Nanos, Outputs, Vitals};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::{ExecutableCommand, cursor, terminal};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Paragraph};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Stdout};

/// Lines of events that the page keeps.
const EVENTS: usize = 40;

/// What the view remembers between redraws.
pub struct Scoreboard {
    started: Option<Nanos>,
    now: Nanos,
    lateness: Nanos,
    vitals: Vitals,
    jobs: BTreeMap<JobId, Capability>,
    running: BTreeMap<JobId, Capability>,
    events: VecDeque<String>,
    answer: String,
}

impl Default for Scoreboard {
    fn default() -> Self {
        Scoreboard {
            started: None,
            now: Nanos::ZERO,
            lateness: Nanos::ZERO,
            vitals: Vitals::default(),
            jobs: BTreeMap::new(),
            running: BTreeMap::new(),
            events: VecDeque::new(),
            answer: String::new(),
        }
    }
}

impl Scoreboard {
    /// Takes in one tick; returns the lines that a plain output would print for it.
    pub fn tick(&mut self, inputs: &Inputs, outputs: &Outputs, timing: Timing) -> Vec<String> {
        let start = *self.started.get_or_insert(inputs.now);
        self.now = inputs.now;
        self.lateness = timing.lateness;
        self.vitals.clone_from(&outputs.vitals);
        let mut lines = Vec::new();
        for command in &outputs.commands {
            if let Command::Submit(job) = command {
                self.jobs.insert(job.id, job.capability);
            }
        }
        for event in &inputs.events {
            match event {
                LaneEvent::Started { job, .. } => {
                    if let Some(capability) = self.jobs.get(job) {
                        self.running.insert(*job, *capability);
                    }
                }
                LaneEvent::Done { job, .. } => {
                    self.jobs.remove(job);
                    self.running.remove(job);
                }
                LaneEvent::Utterance { words, .. } => {
                    let text: Vec<&str> = words.iter().map(|word| word.word.as_str()).collect();
                    lines.push(format!("heard   {}", text.join(" ")));
                }
                _ => {}
            }
        }
        for decision in &outputs.decisions {
            match decision {
                Decision::State { from, to, why } => lines.push(format!("state   {from:?} → {to:?} ({why:?})")),
                Decision::Cut { played, why, .. } => lines.push(format!("cut     after {played} words ({why:?})")),
                Decision::Act { name, age, why, .. } => {
                    lines.push(format!("action  {name} (input {} ms old, {why:?})", age.as_ms()));
                }
                Decision::Refuse { name, why } => lines.push(format!("refused {name} ({why:?})")),
                Decision::Halt { on, why, .. } => {
                    lines.push(format!("halt    {} ({why:?})", if *on { "latched" } else { "released" }));
                }
                Decision::Starved { source, on } => {
                    lines.push(format!("source  {} {}", source.0, if *on { "starved" } else { "back" }));
                }
                _ => {}
            }
        }
        for act in &outputs.acts {
            match act {
                crate::types::Act::Say { word, index, .. } => {
                    if *index == 0 {
                        self.answer.clear();
                    }
                    self.answer.push_str(word);
                    self.answer.push(' ');
                }
                crate::types::Act::EndOfAnswer { .. } | crate::types::Act::Silence if !self.answer.is_empty() => {
                    lines.push(format!("said    {}", self.answer.trim_end()));
                    self.answer.clear();
                }
                _ => {}
            }
        }
        let t_s = inputs.now.since(start).as_s();
        for line in &mut lines {
            *line = format!("{t_s:7.2}  {line}");
            if self.events.len() == EVENTS {
                self.events.pop_front();
            }
            self.events.push_back(line.clone());
        }
        lines
    }
}

/// The page on a terminal; restores the terminal when dropped.
pub struct Page {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Page {
    /// Takes over the terminal's other screen.
    ///
    /// # Errors
    /// The terminal does not take commands.
    pub fn open() -> io::Result<Page> {
        io::stdout().execute(terminal::EnterAlternateScreen)?.execute(cursor::Hide)?;
        Ok(Page { terminal: Terminal::new(CrosstermBackend::new(io::stdout()))? })
    }

    /// Redraws everything.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, board: &Scoreboard, tally: &mut Tally, title: &str) -> io::Result<()> {
        let report = tally.report(String::new());
        let names: Vec<(String, f32, f32)> =
            board.vitals.salience.iter().map(|s| (tally.source_name(s.source).to_owned(), s.total, s.trust)).collect();
        self.terminal.draw(|frame| {
            let rows = Layout::vertical([
                Constraint::Length(6),
                Constraint::Length(2 + names.len().max(1) as u16),
                Constraint::Min(5),
            ])
            .split(frame.area());
            let top = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).split(rows[0]);
            let q = &report.lateness_us;
            let loop_lines = vec![
                Line::from(format!(
                    "tick {} at {} Hz, {} missed, t {:.1} s",
                    report.ticks, report.rate_hz, report.ticks_missed, report.seconds
                )),
                Line::from(format!("lateness p50 {:.0} p99 {:.0} max {:.0} µs", q.p50, q.p99, q.max)),
                Line::from(format!(
                    "tick work p50 {:.1} p99 {:.1} µs",
                    report.tick_work_us.p50, report.tick_work_us.p99
                )),
                Line::from(vec![
                    "state ".into(),
                    format!("{:?}", board.vitals.state).fg(colour(board.vitals.state)).bold(),
                    format!("  ATP {:.0}/{:.0} ms", board.vitals.atp_ms, board.vitals.atp_max_ms).into(),
                    if board.vitals.halted { "  HALT".red().bold() } else { "".into() },
                ]),
            ];
            frame.render_widget(Paragraph::new(loop_lines).block(Block::bordered().title(title)), top[0]);
            let running: Vec<String> = board.running.values().map(|c| format!("{c:?}").to_lowercase()).collect();
            let mut lane = vec![Line::from(format!(
                "running {}",
                if running.is_empty() { "nothing".to_owned() } else { running.join(", ") }
            ))];
            let kept: Vec<String> = report
                .deadlines
                .iter()
                .map(|(class, c)| format!("{class} {}/{} shed {}", c.kept, c.kept + c.missed, c.shed))
                .collect();
            lane.push(Line::from(format!("deadlines {}", kept[..2].join(", "))));
            lane.push(Line::from(format!("          {}", kept[2..].join(", "))));
            lane.push(Line::from(format!("preemptions {}, superseded {}", report.preemptions, report.superseded)));
            frame.render_widget(Paragraph::new(lane).block(Block::bordered().title("lane")), top[1]);
            let block = Block::bordered().title("salience");
            let inner = block.inner(rows[1]);
            frame.render_widget(block, rows[1]);
            let bars = Layout::vertical(vec![Constraint::Length(1); names.len()]).split(inner);
            for ((name, total, trust), area) in names.iter().zip(bars.iter()) {
                let gauge = Gauge::default()
                    .ratio(f64::from(*total).clamp(0.0, 1.0))
                    .label(format!("{name} {total:.2} (trust {trust:.2})"))
                    .gauge_style(Style::new().fg(Color::Blue));
                frame.render_widget(gauge, *area);
            }
            let room = usize::from(rows[2].height.saturating_sub(2));
            let mut lines: Vec<Line<'_>> = board
                .events
                .iter()
                .rev()
                .take(room.saturating_sub(1))
                .rev()
                .map(|line| Line::from(line.as_str()))
                .collect();
            if !board.answer.is_empty() {
                lines.push(Line::from(format!("         saying  {}", board.answer)).italic());
            }
            frame.render_widget(
                Paragraph::new(lines).block(Block::bordered().title("heard, seen, said, done (Ctrl-C ends)")),
                rows[2],
            );
        })?;
        Ok(())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = io::stdout().execute(terminal::LeaveAlternateScreen);
        let _ = io::stdout().execute(cursor::Show);
    }
}

fn colour(state: Metabolic) -> Color {
    match state {
        Metabolic::Wake => Color::Green,
        Metabolic::Focus => Color::Yellow,
        Metabolic::Rest => Color::Blue,
        Metabolic::Dream => Color::Magenta,
        Metabolic::Crisis => Color::Red,
    }
}
