//! Whether a sound card's device is in use, and by whom, as the kernel tells it under `/proc/asound`. An ALSA name flows in;
//! who holds the device flows out. A device in use cannot be opened, not even to ask what it offers.

use super::sound_device::Way;
use std::path::Path;

/// Who holds the device of this ALSA name (`hw:CARD=0,DEV=0`, `plughw:CARD=PCH`), if all its subdevices are held: a
/// program's name and process number. `None` for a device that is free, that is not there, or whose name is of another
/// kind: those go through a mixer, which several programs share. `proc` is `/proc`.
pub fn holder(proc: &Path, pcm: &str, way: Way) -> Option<String> {
    let (card, device) = card_and_device(pcm)?;
    let way = if way == Way::In { 'c' } else { 'p' };
    let folder = if card.bytes().all(|byte| byte.is_ascii_digit()) { format!("card{card}") } else { card.to_owned() };
    let folder = proc.join("asound").join(folder).join(format!("pcm{device}{way}"));
    let mut first = None;
    for entry in std::fs::read_dir(folder).ok()?.filter_map(Result::ok) {
        if !entry.file_name().to_string_lossy().starts_with("sub") {
            continue;
        }
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        if status.trim() == "closed" {
            return None;
        }
        first.get_or_insert(status);
    }
    let status = first?;
    let owner = status.lines().find_map(|line| line.strip_prefix("owner_pid")?.trim().strip_prefix(':'));
    let Some(owner) = owner.map(str::trim) else { return Some("a program".to_owned()) };
    // The kernel tells the thread that opened the device.
    let thread = std::fs::read_to_string(proc.join(owner).join("status")).unwrap_or_default();
    let process = thread.lines().find_map(|line| line.strip_prefix("Tgid:")).map_or(owner, str::trim);
    let name = std::fs::read_to_string(proc.join(process).join("comm")).unwrap_or_default();
    Some(match name.trim() {
        "" => format!("process {process}"),
        name => format!("{name} (process {process})"),
    })
}

/// `CARD=` and `DEV=` of a name that means the card itself; both may be given without their names, the device be left out.
fn card_and_device(pcm: &str) -> Option<(&str, u32)> {
    let (kind, rest) = pcm.split_once(':')?;
    if kind != "hw" && kind != "plughw" {
        return None;
    }
    let mut parts = rest.split(',');
    let card = parts.next()?;
    let card = card.strip_prefix("CARD=").unwrap_or(card);
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let device = parts.next().map_or(Some(0), |device| device.strip_prefix("DEV=").unwrap_or(device).parse().ok())?;
    plain(card).then_some((card, device))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subdevice(proc: &Path, card: &str, pcm: &str, sub: u32, status: &str) {
        let folder = proc.join("asound").join(card).join(pcm).join(format!("sub{sub}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("status"), status).unwrap();
    }

    #[test]
    fn a_device_that_a_program_records_from_is_in_use_and_the_program_is_named() {
        let proc = tempfile::tempdir().unwrap();
        let running = "state: RUNNING\nowner_pid   : 4713\ntrigger_time: 12.5\n";
        subdevice(proc.path(), "card1", "pcm0c", 0, running);
        subdevice(proc.path(), "PCH", "pcm0c", 0, running);
        subdevice(proc.path(), "card1", "pcm0p", 0, "closed\n");
        let held = |name: &str, way| holder(proc.path(), name, way);
        assert_eq!(held("hw:CARD=1,DEV=0", Way::In).as_deref(), Some("process 4713"));
        for (process, file, text) in [(4713, "status", "Name:\tmic\nTgid:\t4711\n"), (4711, "comm", "arecord\n")] {
            std::fs::create_dir_all(proc.path().join(process.to_string())).unwrap();
            std::fs::write(proc.path().join(process.to_string()).join(file), text).unwrap();
        }
        for name in ["hw:CARD=1,DEV=0", "plughw:CARD=PCH,DEV=0", "hw:PCH", "hw:1,0"] {
            assert_eq!(held(name, Way::In).as_deref(), Some("arecord (process 4711)"), "{name}");
        }
        for name in ["hw:CARD=1,DEV=0", "hw:CARD=2,DEV=0", "hw:CARD=1,DEV=3", "default", "dmix:CARD=1", "hw:../1"] {
            assert_eq!(held(name, Way::Out), None, "{name}");
        }
    }

    #[test]
    fn a_device_with_a_free_subdevice_is_not_in_use() {
        let proc = tempfile::tempdir().unwrap();
        subdevice(proc.path(), "card0", "pcm0c", 0, "state: OPEN\n");
        assert_eq!(holder(proc.path(), "hw:0", Way::In).as_deref(), Some("a program"));
        subdevice(proc.path(), "card0", "pcm0c", 1, "closed\n");
        assert_eq!(holder(proc.path(), "hw:0", Way::In), None);
    }
}
