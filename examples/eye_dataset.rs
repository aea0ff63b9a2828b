//! Makes the eye's data sets: a count, a first seed and a split flow in; reduced pictures (`NAME.rgb`, u8, n x 120 x 160 x 3) and
//! their truth (`NAME.boxes`, f32, rows of picture, class, x0, y0, x1, y1 in 160x120 pixels, distance, hard) flow out.
//! Use: eye_dataset FOLDER NAME COUNT FIRST_SEED train|held-out [SHEET.ppm]
//! With a sheet, the first 24 pictures are also written at half size with their boxes, for looking at.

use std::io::Write;

use anyhow::Context;
use sage::engine::cpu::eye::input;
use sage::sense::scene::{FRAME_BYTES, Split, World, render_with_truth};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, name, count, first, split] = args
        .get(..5)
        .and_then(|a| <&[String; 5]>::try_from(a).ok())
        .context("use: eye_dataset FOLDER NAME COUNT FIRST_SEED train|held-out [SHEET.ppm]")?;
    let (count, first): (u64, u64) =
        (count.parse().context("COUNT is not a number")?, first.parse().context("FIRST_SEED is not a number")?);
    let split = if split == "train" { Split::Train } else { Split::HeldOut };
    std::fs::create_dir_all(folder)?;
    let mut pictures = std::io::BufWriter::new(std::fs::File::create(format!("{folder}/{name}.rgb"))?);
    let mut boxes = std::io::BufWriter::new(std::fs::File::create(format!("{folder}/{name}.boxes"))?);
    let (mut frame, mut small) = (vec![0; FRAME_BYTES], vec![0; input::WIDTH * input::HEIGHT * 3]);
    let mut sheet = args.get(5).map(|_| vec![0u8; 1920 * 960 * 3]);
    let start = std::time::Instant::now();
    for i in 0..count {
        let truth = render_with_truth(&World::random(first + i, split), 0.0, &mut frame);
        input::reduce(&frame, &mut small);
        pictures.write_all(&small)?;
        for t in &truth {
            let e = t.extent;
            for v in [
                i as f32,
                t.class as usize as f32,
                e.x0 / 4.0,
                e.y0 / 4.0,
                e.x1 / 4.0,
                e.y1 / 4.0,
                t.distance_m,
                f32::from(u8::from(t.hard)),
            ] {
                boxes.write_all(&v.to_le_bytes())?;
            }
        }
        if let (Some(s), true) = (&mut sheet, i < 18) {
            for t in &truth {
                outline(
                    &mut frame,
                    t.extent,
                    [[255, 0, 0], [0, 80, 255], [0, 255, 0], [255, 255, 0]][t.class as usize],
                    t.hard,
                );
            }
            let (col, row) = ((i % 6) as usize * 320, (i / 6) as usize * 320);
            for y in 0..240 {
                for x in 0..320 {
                    let (from, to) = ((y * 2 * 640 + x * 2) * 3, ((row + y) * 1920 + col + x) * 3);
                    s[to..to + 3].copy_from_slice(&frame[from..from + 3]);
                }
            }
        }
    }
    eprintln!("{count} pictures, {:.2} ms each", start.elapsed().as_secs_f64() * 1e3 / count as f64);
    if let (Some(s), Some(path)) = (sheet, args.get(5)) {
        let mut f = std::fs::File::create(path)?;
        writeln!(f, "P6 1920 960 255")?;
        f.write_all(&s)?;
    }
    Ok(())
}

fn outline(frame: &mut [u8], e: sage::sense::scene::Extent, colour: [u8; 3], dashed: bool) {
    let (x0, y0, x1, y1) = (e.x0 as usize, e.y0 as usize, (e.x1 as usize).min(639), (e.y1 as usize).min(479));
    let mut put = |x: usize, y: usize| {
        if !dashed || (x + y) % 8 < 4 {
            frame[(y * 640 + x) * 3..][..3].copy_from_slice(&colour);
        }
    };
    for x in x0..=x1 {
        for y in [y0, y0 + 1, y1, y1.saturating_sub(1)] {
            put(x, y.min(479));
        }
    }
    for y in y0..=y1 {
        for x in [x0, x0 + 1, x1, x1.saturating_sub(1)] {
            put(x.min(639), y);
        }
    }
}
