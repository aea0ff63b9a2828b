//! Measures the eye on this machine: the weights file flows in, milliseconds a frame and a step for each kernel set, and the time to draw
//! a synthetic frame, flow out. Use: eye_speed engines/eye/eye.safetensors

use std::path::Path;
use std::time::Instant;

use sage::engine::cpu::eye::net::STEPS;
use sage::engine::cpu::eye::{Eye, LEAST_SCORE};
use sage::engine::cpu::simd::Simd;
use sage::sense::scene::{FRAME_BYTES, Split, World, render};

fn median(v: &mut [f64]) -> (f64, f64) {
    v.sort_by(f64::total_cmp);
    (v[v.len() / 2], v[v.len() * 99 / 100])
}

fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "engines/eye/eye.safetensors".into());
    let worlds: Vec<World> = (0..40).map(|s| World::random(s, Split::HeldOut)).collect();
    let mut frame = vec![0; FRAME_BYTES];
    let mut draw = Vec::new();
    for w in &worlds {
        let start = Instant::now();
        render(w, 0.0, &mut frame);
        draw.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let (mid, high) = median(&mut draw);
    println!("drawing a frame: median {mid:.2} ms, 99 % {high:.2} ms");
    for simd in [Simd::Scalar, Simd::Avx2, Simd::Avx512] {
        if simd.supported() != simd {
            continue;
        }
        let eye = Eye::load(Path::new(&file), simd)?;
        let (mut whole, mut steps) = (Vec::new(), vec![Vec::new(); STEPS]);
        for _ in 0..300 {
            let start = Instant::now();
            let mut look = eye.begin(&frame);
            let mut last = start;
            for s in &mut steps {
                look.step(&|| false);
                let now = Instant::now();
                s.push((now - last).as_secs_f64() * 1e3);
                last = now;
            }
            std::hint::black_box(look.found(LEAST_SCORE));
            whole.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let fastest = whole.iter().copied().fold(f64::MAX, f64::min);
        let (mid, high) = median(&mut whole);
        let each: Vec<String> = steps.iter_mut().map(|s| format!("{:.2}", median(s).0)).collect();
        println!(
            "{}: a frame median {mid:.2} ms, 99 % {high:.2}, fastest {fastest:.2}; steps {} ms",
            simd.name(),
            each.join(" ")
        );
    }
    Ok(())
}
