//! Pictures as logs and cameras hold them turned into row-major RGB: JPEG, and the raw encodings that ROS and Foxglove
//! name. Bytes flow in; width, height and RGB bytes flow out, or one sentence that says why not.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Larger pictures are refused: width or height, pixels.
const MAX_SIDE: u32 = 8192;

/// A decoded picture: `rgb` holds `height * width * 3` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Row-major, 3 bytes a pixel.
    pub rgb: Vec<u8>,
}

/// Decodes a JPEG (baseline or progressive, grey or colour). The same bytes give the same pixels on every machine: live
/// capture and replay both come here.
///
/// # Errors
/// A sentence that says what is wrong with the picture.
pub fn jpeg(bytes: &[u8]) -> Result<Rgb, String> {
    // Plain code paths only: vector versions of the inverse transform may round differently from machine to machine.
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .set_use_unsafe(false);
    let mut decoder = JpegDecoder::new_with_options(bytes, options);
    let rgb = decoder.decode().map_err(|error| format!("the JPEG picture cannot be decoded: {error}"))?;
    let (width, height) = decoder.dimensions().ok_or("the JPEG picture has no size")?;
    if rgb.len() != width * height * 3 {
        return Err(format!("the JPEG picture has {} bytes for {width} x {height} pixels", rgb.len()));
    }
    Ok(Rgb { width: width as u32, height: height as u32, rgb })
}

/// Decodes raw pixels. `step` is the distance of rows in bytes; 0 means rows without padding.
///
/// # Errors
/// A sentence for an encoding that is not known, or for too few bytes.
pub fn raw(encoding: &str, width: u32, height: u32, step: u32, data: &[u8]) -> Result<Rgb, String> {
    if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
        return Err(format!("a picture of {width} x {height} pixels cannot be used"));
    }
    let (w, h) = (width as usize, height as usize);
    let layout = layout(encoding).ok_or_else(|| {
        format!("pictures with encoding \"{encoding}\" cannot be used (known: rgb8, bgr8, rgba8, bgra8, mono8, yuv422, yuyv)")
    })?;
    let row_bytes = match layout {
        Layout::Packed { bytes, .. } => w * bytes,
        Layout::Yuv { .. } => w.div_ceil(2) * 4,
    };
    let step = if step == 0 { row_bytes } else { step as usize };
    if step < row_bytes || data.len() < step * (h - 1) + row_bytes {
        return Err(format!("a {encoding} picture of {width} x {height} pixels has only {} bytes", data.len()));
    }
    let mut rgb = Vec::with_capacity(w * h * 3);
    for row in data.chunks(step).take(h) {
        let row = &row[..row_bytes];
        match layout {
            Layout::Packed { bytes, order } => {
                for pixel in row.chunks_exact(bytes) {
                    rgb.extend_from_slice(&[pixel[order[0]], pixel[order[1]], pixel[order[2]]]);
                }
            }
            Layout::Yuv { luma, blue, red } => yuv_row(row, w, luma, blue, red, &mut rgb),
        }
    }
    Ok(Rgb { width, height, rgb })
}

#[derive(Clone, Copy)]
enum Layout {
    Packed { bytes: usize, order: [usize; 3] },
    Yuv { luma: [usize; 2], blue: usize, red: usize },
}

/// Names as in sensor_msgs/image_encodings.hpp and Foxglove's RawImage.
fn layout(encoding: &str) -> Option<Layout> {
    let packed = |bytes, order| Some(Layout::Packed { bytes, order });
    match encoding {
        "rgb8" | "8UC3_rgb" => packed(3, [0, 1, 2]),
        "bgr8" | "8UC3" => packed(3, [2, 1, 0]),
        "rgba8" => packed(4, [0, 1, 2]),
        "bgra8" | "8UC4" => packed(4, [2, 1, 0]),
        "mono8" | "8UC1" => packed(1, [0, 0, 0]),
        "yuv422" | "uyvy" | "UYVY" => Some(Layout::Yuv { luma: [1, 3], blue: 0, red: 2 }),
        "yuv422_yuy2" | "yuyv" | "YUYV" => Some(Layout::Yuv { luma: [0, 2], blue: 1, red: 3 }),
        _ => None,
    }
}

/// One row of 4:2:2; BT.601 with video range, in integers (coefficients times 256, as in the BT.601 definition).
fn yuv_row(row: &[u8], width: usize, luma: [usize; 2], blue: usize, red: usize, rgb: &mut Vec<u8>) {
    for (i, pair) in row.chunks_exact(4).enumerate() {
        let (cb, cr) = (i32::from(pair[blue]) - 128, i32::from(pair[red]) - 128);
        for (j, at) in luma.into_iter().enumerate() {
            if i * 2 + j >= width {
                break;
            }
            let y = 298 * (i32::from(pair[at]) - 16) + 128;
            let channel = |value: i32| (value >> 8).clamp(0, 255) as u8;
            rgb.extend_from_slice(&[channel(y + 409 * cr), channel(y - 100 * cb - 208 * cr), channel(y + 516 * cb)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_give_the_same_picture() {
        let rgb: Vec<u8> = (0..4 * 2 * 3).map(|i| (i * 9) as u8).collect();
        let plain = raw("rgb8", 4, 2, 0, &rgb).unwrap();
        assert_eq!(plain.rgb, rgb);
        let mut bgr = Vec::new();
        for row in rgb.chunks(12) {
            for pixel in row.chunks(3) {
                bgr.extend_from_slice(&[pixel[2], pixel[1], pixel[0]]);
            }
            bgr.extend_from_slice(&[99, 99]); // padding up to step 14
        }
        assert_eq!(raw("bgr8", 4, 2, 14, &bgr).unwrap(), plain);
        assert_eq!(raw("mono8", 2, 1, 0, &[7, 8]).unwrap().rgb, [7, 7, 7, 8, 8, 8]);
    }

    #[test]
    fn yuv_black_white_and_red() {
        let uyvy = [128, 16, 128, 235];
        let yuyv = [16, 128, 235, 128];
        assert_eq!(raw("yuv422", 2, 1, 0, &uyvy).unwrap().rgb, [0, 0, 0, 255, 255, 255]);
        assert_eq!(raw("yuyv", 2, 1, 0, &yuyv).unwrap().rgb, [0, 0, 0, 255, 255, 255]);
        // BT.601 red: Y 81, Cb 90, Cr 240.
        let red = raw("yuyv", 1, 1, 0, &[81, 90, 81, 240]).unwrap().rgb;
        assert!(red[0] >= 253 && red[1] <= 2 && red[2] <= 2, "{red:?}");
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        assert!(raw("16UC1", 2, 2, 0, &[0; 8]).unwrap_err().contains("16UC1"));
        assert!(raw("rgb8", 2, 2, 0, &[0; 11]).unwrap_err().contains("11 bytes"));
        assert!(raw("rgb8", 0, 2, 0, &[]).is_err());
        assert!(raw("rgb8", 4_000_000_000, 2, 0, &[]).is_err());
        assert!(jpeg(b"\xFF\xD8\xFFnonsense").is_err());
    }

    #[test]
    fn a_jpeg_comes_back_nearly_as_it_was() {
        let rgb: Vec<u8> = (0..32 * 16).flat_map(|i| [(i % 32 * 8) as u8, (i / 32 * 16) as u8, 90]).collect();
        let mut bytes = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
        encoder.encode(&rgb, 32, 16, jpeg_encoder::ColorType::Rgb).unwrap();
        let back = jpeg(&bytes).unwrap();
        assert_eq!((back.width, back.height), (32, 16));
        let worst = back.rgb.iter().zip(&rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst < 24, "{worst}");
    }
}
