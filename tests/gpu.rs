//! The CUDA side without a GPU: against a test double of the driver (gpu/fake_libcuda.c, which checks every handle and every
//! address), in a child process, and the sentence that a machine without a driver gets.
#![cfg(feature = "tensorrt")]

mod gpu_double;

use gpu_double::Double;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

#[test]
fn the_bench_uses_the_driver_as_it_must_be_used() {
    let Some(double) = Double::of_the_driver() else { return };
    let output = double.sage(&["bench", "gpu", "--json", "--rounds", "3", "--step-mb", "4"]);
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{wrong}");
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["device"]["name"], "test double of the driver, no GPU");
    assert_eq!(report["device"]["compute_capability"], "8.9");
    assert_eq!(report["memory"]["frame_to_device_us"]["n"], 3);
    assert_eq!(report["launch"]["kernels"], 192);
    assert_eq!(report["urgent_work_us"]["partitions: multiprocessors for the rest"], 3);
    assert_eq!(report["cancel"]["cancel_to_free_us"]["n"], 3);
    // Nothing is left behind: every stream, event, graph, buffer and context that was made was given back.
    let counted = double.counted();
    assert!(counted.iter().any(|(kind, made, _)| kind == "executables" && *made == 1), "{counted:?}");
    for (kind, made, gone) in counted {
        assert!(kind == "contexts" && made == 0 || made > 0 && made == gone, "{kind}: {made} made, {gone} destroyed");
    }
}

#[test]
fn the_table_has_the_same_figures_and_a_file_can_be_written() {
    let Some(double) = Double::of_the_driver() else { return };
    let file = double.path().join("gpu.json");
    let written = file.display().to_string();
    let output = double.sage(&["bench", "gpu", "--rounds", "2", "--step-mb", "2", "--out", &written]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("copy_gb_per_s") && said.contains("same stream"), "{said}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(report["memory"]["step_bytes"], 1_998_848);
    let output = double.sage(&["bench", "gpu", "--step-mb", "100000"]);
    assert_eq!(output.status.code(), Some(2));
    let output = double.sage(&["bench", "gpu", "--device", "1"]);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && wrong.contains("shows 1 devices"), "{wrong}");
}

#[test]
fn a_machine_without_a_driver_gets_one_sentence() {
    if ["/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib/aarch64-linux-gnu/libcuda.so.1", "/dev/nvidiactl"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        return eprintln!("skipped: this machine has a driver");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_sage")).args(["bench", "gpu"]).output().unwrap();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{wrong}");
    assert!(wrong.contains("libcuda.so.1 is not there") && wrong.lines().count() == 1, "{wrong}");
}

#[test]
fn a_driver_that_lacks_a_function_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("old.c");
    std::fs::write(&source, "int cuInit(unsigned flags) { return (int)flags; }\n").unwrap();
    let library = folder.path().join("libcuda.so.1");
    let Ok(made) = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).output() else {
        return eprintln!("skipped: no C compiler");
    };
    assert!(made.status.success());
    std::os::unix::fs::symlink("libcuda.so.1", folder.path().join("libcuda.so")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sage"));
    let output = command.args(["bench", "gpu"]).env("LD_LIBRARY_PATH", folder.path()).output().unwrap();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{wrong}");
    assert!(wrong.contains("has no cuDriverGetVersion") && wrong.lines().count() == 1, "{wrong}");
}

#[test]
fn the_kernel_assembles_for_every_architecture_that_matters() {
    if Command::new("ptxas").arg("--version").output().is_err() {
        return eprintln!("skipped: no ptxas (the Python package nvidia-cuda-nvcc has one)");
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/cuda/sweep.ptx");
    let folder = tempfile::tempdir().unwrap();
    // H200, Thor and the desktop Blackwells.
    for architecture in ["sm_90", "sm_110", "sm_120"] {
        let mut ptxas = Command::new("ptxas");
        let output = ptxas.arg(format!("-arch={architecture}")).arg(&source).arg("-o").arg(folder.path().join("out"));
        let output = output.output().unwrap();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{architecture}: {wrong}");
    }
}
