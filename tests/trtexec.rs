//! The `trtexec` line of `sage engine build --emit-only`, read as NVIDIA's tool reads it. No copy of the tool could be had here, so
//! its rules stand below, as they were read in the repository NVIDIA/TensorRT, samples/common/sampleOptions.cpp, in a version of 10
//! that has `RUNTIME_ACTIVATION_RESIZE_10_10` and in the first of 11.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use checkpoint::cases;
use sage::engine::tensorrt::Manifest;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Options that `BuildOptions::parse`, `ModelOptions::parse` and `SystemOptions::parse` take in both versions, of those that a build
/// from ONNX can want. `true`: with a value.
const OPTIONS: [(&str, bool); 20] = [
    ("--onnx", true),
    ("--profile", true),
    ("--minShapes", true),
    ("--optShapes", true),
    ("--maxShapes", true),
    ("--memPoolSize", true),
    ("--avgTiming", true),
    ("--stripWeights", false),
    ("--refit", false),
    ("--noTF32", false),
    ("--stronglyTyped", false),
    ("--skipInference", false),
    ("--profilingVerbosity", true),
    ("--saveEngine", true),
    ("--timingCacheFile", true),
    ("--builderOptimizationLevel", true),
    ("--maxAuxStreams", true),
    ("--tempdir", true),
    ("--device", true),
    ("--useRuntime", true),
];

type Shapes = BTreeMap<String, Vec<i64>>;

/// What the tool makes of its arguments.
#[derive(Debug, Default)]
struct Read {
    options: BTreeMap<String, String>,
    /// Least, usual and largest shapes by profile.
    profiles: BTreeMap<usize, [Shapes; 3]>,
}

/// `argsToArgumentsMap`, then `getOptimizationProfiles`: the shapes of a profile are those of the up to three arguments right
/// behind its `--profile`; shapes elsewhere are an error, and so is an option that nobody asked for.
fn read(arguments: &[String]) -> Read {
    let mut read = Read::default();
    let mut at = 0;
    while at < arguments.len() {
        let (name, value) = arguments[at].split_once('=').unwrap_or((&arguments[at], ""));
        let known = OPTIONS.iter().find(|(option, _)| *option == name).unwrap_or_else(|| panic!("no option {name}"));
        assert_eq!(known.1, !value.is_empty(), "{name}");
        at += 1;
        if name != "--profile" {
            assert!(!name.ends_with("Shapes"), "{name} is not right behind its --profile");
            assert!(read.options.insert(name.to_owned(), value.to_owned()).is_none(), "{name} twice");
            continue;
        }
        let mut profile = [Shapes::new(), Shapes::new(), Shapes::new()];
        for _ in 0..3 {
            let (name, list) = arguments[at].split_once('=').expect("shapes");
            let which = ["--minShapes", "--optShapes", "--maxShapes"].iter().position(|flag| *flag == name);
            let which = which.unwrap_or_else(|| panic!("{name} between a profile and its shapes"));
            assert!(profile[which].is_empty(), "{name} twice");
            profile[which] = list.split(',').map(shape).collect();
            at += 1;
        }
        let index: usize = value.parse().expect("the number of a profile");
        assert!(read.profiles.insert(index, profile).is_none(), "profile {index} twice");
    }
    read
}

/// `splitNameAndValue`: everything before the last colon is the name; sizes are divided by `x`.
fn shape(spec: &str) -> (String, Vec<i64>) {
    let (name, sizes) = spec.rsplit_once(':').expect("a name and sizes");
    assert!(!name.is_empty() && !name.contains('\''), "{spec}");
    (name.to_owned(), sizes.split('x').map(|size| size.parse().expect("a size")).collect())
}

/// The words of a line, by the shell that will read it.
fn words(line: &str) -> Vec<String> {
    let output = Command::new("sh").arg("-c").arg(format!("printf '%s\\n' {line}")).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn sage(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sage")).args(args).output().unwrap()
}

/// Name and sizes of an input in a manifest: `name type [sizes]`, -1 where it is dynamic.
fn input(text: &str) -> (String, Vec<i64>) {
    let (name, rest) = text.split_once(' ').unwrap();
    let sizes = rest.split_once('[').unwrap().1.trim_end_matches(']');
    (name.to_owned(), sizes.split(", ").map(|size| size.parse().unwrap()).collect())
}

#[test]
fn every_option_is_known_and_every_dynamic_input_has_its_shapes() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("a model's folder");
    std::fs::create_dir(&model).unwrap();
    // Weights in two files.
    cases()[8].write(&model, 2);
    let model = model.display().to_string();
    for (form, groups) in [("fused", 1), ("fused", 3), ("primitive", 2)] {
        let out = root.path().join(format!("for the device {form} {groups}"));
        let (folder, count) = (out.display().to_string(), groups.to_string());
        let base = ["engine", "build", &model, "--out", &folder, "--emit-only", "--target", "thor", "--form", form];
        let output = sage(&[&base[..], &["--groups", &count, "--capacity", "320", "--chunk", "64"]].concat());
        let said = String::from_utf8(output.stdout).unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("has no tokenizer.json"), "{told}");
        let manifest = Manifest::load(&out).unwrap();
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("trtexec ")).collect();
        assert_eq!(lines.len(), groups);
        for (line, engine) in lines.iter().zip(&manifest.engines) {
            let words = words(line);
            assert_eq!(words[0], "trtexec");
            let read = read(&words[1..]);
            let option = |name: &str| read.options.get(name).unwrap_or_else(|| panic!("no {name}: {line}"));
            // The graph lies beside the weights that it names, which is where the parser looks for them.
            let onnx = PathBuf::from(option("--onnx"));
            assert_eq!(onnx, out.join(&engine.file));
            assert!(onnx.is_file() && out.join("model-00001-of-00002.safetensors").is_file());
            assert_eq!(Path::new(option("--saveEngine")), onnx.with_extension("plan"));
            assert_eq!(Path::new(option("--timingCacheFile")), out.join("timing.cache"));
            assert_eq!((option("--stronglyTyped").as_str(), option("--skipInference").as_str()), ("", ""));
            assert!(read.profiles.keys().copied().eq(0..manifest.profiles.len()), "{:?}", read.profiles);
            let dynamic = || engine.inputs.iter().map(|text| input(text)).filter(|(_, sizes)| sizes.contains(&-1));
            assert!(dynamic().count() >= 3);
            for [least, usual, largest] in read.profiles.values() {
                assert_eq!(least.len(), dynamic().count());
                for (name, sizes) in dynamic() {
                    for (index, size) in sizes.iter().enumerate() {
                        let (a, b, c) = (least[&name][index], usual[&name][index], largest[&name][index]);
                        assert!(1 <= a && a <= b && b <= c, "{name}: {a} {b} {c}");
                        assert!(*size == -1 || (a, b, c) == (*size, *size, *size), "{name}");
                    }
                    assert_eq!(sizes.len(), least[&name].len(), "{name}");
                }
            }
            let prefill = &read.profiles[&1][2];
            assert_eq!(
                (prefill["position_ids"].as_slice(), prefill["key_positions"].as_slice()),
                (&[1, 64][..], &[320][..])
            );
        }
        // The other command it prints works on the emitted folder, which is a checkpoint too.
        let line = said.lines().find(|line| line.starts_with("sage engine build ")).unwrap();
        let again = root.path().join("again").display().to_string();
        let words: Vec<String> = words(line).into_iter().skip(1).collect();
        let words: Vec<&str> = words.iter().map(|word| if word == "ENGINE" { &again } else { word.as_str() }).collect();
        let output = sage(&[&words[..], &["--emit-only"]].concat());
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let copy = Manifest::load(Path::new(&again)).unwrap();
        assert_eq!((copy.recipe.graph, copy.weights), (manifest.recipe.graph.clone(), manifest.weights.clone()));
        std::fs::remove_dir_all(&again).unwrap();
    }
}
