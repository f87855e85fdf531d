//! Data sets of the hub, from a server in this file that speaks the hub's interface: listings by
//! revision, files behind redirects, ranges, tokens, refusals and connections that break.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{arg, golden, json, shared, text};
use trainer::data::hub::{Fetched, HubDataset, HubError, HubOptions};

/// One request, as the server saw it.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    token: Option<String>,
    range: Option<u64>,
}

/// What the server has and how it behaves.
#[derive(Default)]
struct World {
    /// Files of a revision, by path.
    revisions: BTreeMap<String, (String, BTreeMap<String, Vec<u8>>)>,
    seen: Vec<Seen>,
    /// Statuses that are answered first, whatever is asked.
    first: Vec<(u16, &'static str)>,
    /// A token that must be shown.
    token: Option<&'static str>,
    gated: bool,
    /// Bytes after which a file's connection breaks, once for each number.
    breaks: Vec<usize>,
    /// A byte of every file is wrong, so many times.
    damages: usize,
    /// Where files really are; another host, as storage is.
    storage: Option<String>,
}

type Shared = Arc<Mutex<World>>;

fn respond(stream: &mut TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) {
    let mut head =
        format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    let _ = stream.write_all(body);
}

fn request(stream: &TcpStream) -> Option<Seen> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_string();
    let mut seen = Seen { path, token: None, range: None };
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            return Some(seen);
        }
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => seen.token = value.strip_prefix("Bearer ").map(str::to_string),
            "range" => {
                let from = value.strip_prefix("bytes=").and_then(|v| v.strip_suffix('-'));
                seen.range = from.and_then(|v| v.parse().ok());
            }
            _ => {}
        }
    }
    None
}

/// Starts a server; answers its address.
fn serve(world: &Shared, answer: fn(&Shared, &mut TcpStream, Seen)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let world = world.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            if let Some(seen) = request(&stream) {
                world.lock().unwrap().seen.push(seen.clone());
                answer(&world, &mut stream, seen);
            }
        }
    });
    address
}

fn decoded(text: &str) -> String {
    text.replace("%2F", "/").replace("%20", " ")
}

/// The hub: `/api/datasets/NAME/revision/REV` and `/datasets/NAME/resolve/COMMIT/PATH`.
fn hub(world: &Shared, stream: &mut TcpStream, seen: Seen) {
    let mut world = world.lock().unwrap();
    if !world.first.is_empty() {
        let (status, wait) = world.first.remove(0);
        return respond(stream, status, &[("retry-after", wait.to_string())], b"no");
    }
    if world.token.is_some() && seen.token.as_deref() != world.token {
        return respond(stream, 401, &[("x-error-code", "RepoNotFound".into())], b"{}");
    }
    if world.gated {
        return respond(stream, 403, &[("x-error-code", "GatedRepo".into())], b"{}");
    }
    let path = decoded(seen.path.split('?').next().unwrap());
    if let Some(rest) = path.strip_prefix("/api/datasets/me/data/revision/") {
        return match world.revisions.get(rest) {
            None => respond(stream, 404, &[("x-error-code", "RevisionNotFound".into())], b"{}"),
            Some((sha, files)) => {
                let siblings: Vec<_> =
                    files.keys().map(|f| serde_json::json!({"rfilename": f})).collect();
                let body = serde_json::json!({"sha": sha, "siblings": siblings}).to_string();
                respond(stream, 200, &[], body.as_bytes());
            }
        };
    }
    let Some(rest) = path.strip_prefix("/datasets/me/data/resolve/") else {
        return respond(stream, 404, &[("x-error-code", "RepoNotFound".into())], b"{}");
    };
    let (commit, file) = rest.split_once('/').unwrap();
    let found = world.revisions.values().find(|(sha, _)| sha == commit);
    let Some(bytes) = found.and_then(|(_, files)| files.get(file)) else {
        return respond(stream, 404, &[("x-error-code", "EntryNotFound".into())], b"");
    };
    let tag = format!("\"{}\"", trainer::fs::sha256_hex(bytes));
    let headers = [
        ("x-linked-etag", tag.clone()),
        ("x-linked-size", bytes.len().to_string()),
        ("x-repo-commit", commit.into()),
    ];
    match &world.storage {
        // As the hub does: first to itself, then to storage.
        Some(_) if !seen.path.contains("again") => {
            let mut headers = headers.to_vec();
            headers.push(("location", format!("{}?again", seen.path)));
            respond(stream, 307, &headers, b"");
        }
        Some(storage) => {
            let location = format!("{storage}/{}", trainer::fs::sha256_hex(bytes));
            respond(stream, 302, &[("location", location)], b"");
        }
        None => respond(stream, 200, &headers, bytes),
    }
}

/// The storage that the hub redirects to: files by hash, with ranges.
fn storage(world: &Shared, stream: &mut TcpStream, seen: Seen) {
    let mut world = world.lock().unwrap();
    let hash = seen.path.trim_start_matches('/').to_string();
    let all: Vec<Vec<u8>> =
        world.revisions.values().flat_map(|(_, files)| files.values().cloned()).collect();
    let Some(mut bytes) = all.into_iter().find(|b| trainer::fs::sha256_hex(b) == hash) else {
        return respond(stream, 404, &[], b"");
    };
    if world.damages > 0 {
        world.damages -= 1;
        bytes[0] ^= 1;
    }
    let from = seen.range.unwrap_or(0) as usize;
    if from >= bytes.len() && seen.range.is_some() {
        return respond(stream, 416, &[], b"");
    }
    let body = &bytes[from..];
    let (status, range) = match seen.range {
        Some(_) => {
            (206, format!("content-range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len()))
        }
        None => (200, String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{range}\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let upto = match world.breaks.is_empty() {
        true => body.len(),
        false => world.breaks.remove(0).min(body.len()),
    };
    let _ = stream.write_all(&body[..upto]);
}

const PARQUET: &str = "refs/convert/parquet";

/// A file of rows by `trainer convert`.
fn rows_file(dir: &Path, name: &str, rows: &str) -> Vec<u8> {
    let source = dir.join("rows.jsonl");
    std::fs::write(&source, rows).unwrap();
    let out = dir.join(name);
    support::trainer_ok([
        "convert",
        "--overwrite",
        "True",
        "--input",
        &arg(&source),
        "--output",
        &arg(&out),
    ]);
    std::fs::read(out).unwrap()
}

fn world(files: &[(&str, &str, Vec<u8>)]) -> Shared {
    let mut world = World::default();
    for (revision, path, bytes) in files {
        let sha = trainer::fs::sha256_hex(revision.as_bytes())[..40].to_string();
        let (_, of) = world.revisions.entry(revision.to_string()).or_insert((sha, BTreeMap::new()));
        of.insert(path.to_string(), bytes.clone());
    }
    Arc::new(Mutex::new(world))
}

fn options(endpoint: &str, cache: &Path) -> HubOptions {
    HubOptions {
        endpoint: endpoint.into(),
        token: None,
        cache: cache.to_path_buf(),
        offline: false,
        pause: Duration::from_millis(5),
    }
}

fn dataset(name: &str) -> HubDataset {
    HubDataset { name: name.into(), config: None, revision: None }
}

fn fetch(of: &HubDataset, options: &HubOptions) -> Result<Fetched, HubError> {
    of.open(options)?.fetch("train", &mut |_| {})
}

#[test]
fn parquet_conversions_come_through_redirects_and_stay_cached() {
    let tmp = tempfile::tempdir().unwrap();
    let files = [b"first file".to_vec(), b"second".repeat(1000)];
    let world = world(&[
        (PARQUET, "default/train/0000.parquet", files[0].clone()),
        (PARQUET, "default/train/0001.parquet", files[1].clone()),
        (PARQUET, "default/test/0000.parquet", b"test".to_vec()),
        ("main", "data.csv", b"a,b".to_vec()),
    ]);
    let address = serve(&world, hub);
    world.lock().unwrap().storage = Some(serve(&world, storage));
    let mut options = options(&address, tmp.path());
    options.token = Some("secret".into());
    let got = fetch(&dataset("me/data"), &options).unwrap();
    let read: Vec<Vec<u8>> = got.files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    assert_eq!(read, files);
    // The layout is Hugging Face's own.
    let root = tmp.path().join("datasets--me--data");
    let snapshot = root.join("snapshots").join(&got.commit);
    assert_eq!(got.files[0], snapshot.join("default/train/0000.parquet"));
    let blob = root.join("blobs").join(trainer::fs::sha256_hex(&files[0]));
    assert_eq!(got.files[0].canonicalize().unwrap(), blob.canonicalize().unwrap());
    let noted = std::fs::read_to_string(root.join("refs/refs/convert/parquet")).unwrap();
    assert_eq!(noted, got.commit);
    // The token went to the hub and nowhere else.
    let seen = std::mem::take(&mut world.lock().unwrap().seen);
    for one in &seen {
        let to_hub = one.path.contains("datasets");
        assert_eq!(one.token.is_some(), to_hub, "{one:?}");
    }
    assert!(seen.iter().any(|s| s.path.contains("revision/refs%2Fconvert%2Fparquet")));
    // A second time only the revision is asked for; offline, nothing is.
    assert_eq!(fetch(&dataset("me/data"), &options).unwrap(), got);
    assert_eq!(world.lock().unwrap().seen.len(), 1);
    options.offline = true;
    options.endpoint = "http://127.0.0.1:1".into();
    assert_eq!(fetch(&dataset("me/data"), &options).unwrap(), got);
    let e = dataset("me/data").open(&options).unwrap().fetch("test", &mut |_| {}).unwrap_err();
    assert!(matches!(e, HubError::NoSplit { .. } | HubError::Offline { .. }), "{e}");
    let e = fetch(&dataset("me/other"), &options).unwrap_err().to_string();
    assert!(e.contains("nothing is cached of data set `me/other`"), "{e}");
    // A new commit is a new snapshot: never stale.
    options.offline = false;
    options.endpoint = address;
    let (sha, of) = world.lock().unwrap().revisions.remove(PARQUET).unwrap();
    let mut of = of;
    of.insert("default/train/0000.parquet".into(), b"changed".to_vec());
    world
        .lock()
        .unwrap()
        .revisions
        .insert(PARQUET.into(), (sha.replace(|c: char| c.is_ascii_digit(), "a"), of));
    let new = fetch(&dataset("me/data"), &options).unwrap();
    assert_eq!(std::fs::read(&new.files[0]).unwrap(), b"changed");
    assert_eq!(std::fs::read(&got.files[0]).unwrap(), files[0]);
}

#[test]
fn broken_downloads_go_on_and_damaged_ones_begin_again() {
    let tmp = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let world = world(&[(PARQUET, "default/train/0000.parquet", bytes.clone())]);
    let address = serve(&world, hub);
    world.lock().unwrap().storage = Some(serve(&world, storage));
    world.lock().unwrap().breaks = vec![1000, 500_000];
    let options = options(&address, tmp.path());
    let got = fetch(&dataset("me/data"), &options).unwrap();
    assert!(std::fs::read(&got.files[0]).unwrap() == bytes);
    let ranges: Vec<u64> = world
        .lock()
        .unwrap()
        .seen
        .iter()
        .filter(|s| !s.path.contains("datasets"))
        .filter_map(|s| s.range)
        .collect();
    assert_eq!(ranges, [1000, 501_000]);
    // An attempt of an earlier process is gone on with, too.
    std::fs::remove_dir_all(tmp.path().join("datasets--me--data")).unwrap();
    world.lock().unwrap().breaks = vec![7; 5];
    let e = fetch(&dataset("me/data"), &options).unwrap_err().to_string();
    assert!(e.contains("broke off after 35 of 1200000 bytes") || e.contains("can't reach"), "{e}");
    world.lock().unwrap().breaks.clear();
    world.lock().unwrap().seen.clear();
    let got = fetch(&dataset("me/data"), &options).unwrap();
    assert!(std::fs::read(&got.files[0]).unwrap() == bytes);
    assert!(world.lock().unwrap().seen.iter().any(|s| s.range == Some(35)));
    // What is not what the hub says it is is fetched again, and never kept.
    std::fs::remove_dir_all(tmp.path().join("datasets--me--data")).unwrap();
    world.lock().unwrap().damages = 2;
    let got = fetch(&dataset("me/data"), &options).unwrap();
    assert!(std::fs::read(&got.files[0]).unwrap() == bytes);
    std::fs::remove_dir_all(tmp.path().join("datasets--me--data")).unwrap();
    world.lock().unwrap().damages = 100;
    let e = fetch(&dataset("me/data"), &options).unwrap_err().to_string();
    assert!(e.contains("came as sha256") && e.contains("0000.parquet"), "{e}");
    let left: Vec<_> =
        std::fs::read_dir(tmp.path().join("datasets--me--data/blobs")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn refusals_say_what_to_do() {
    let tmp = tempfile::tempdir().unwrap();
    let world = world(&[
        (PARQUET, "en/train/0000.parquet", b"x".to_vec()),
        (PARQUET, "de/train/0000.parquet", b"y".to_vec()),
        ("v1", "script.py", b"x".to_vec()),
    ]);
    let address = serve(&world, hub);
    let options = options(&address, tmp.path());
    let says = |of: &HubDataset, options: &HubOptions, parts: &[&str]| {
        let e = fetch(of, options).unwrap_err().to_string();
        for part in parts {
            assert!(e.contains(part), "no `{part}` in {e}");
        }
        assert!(!e.contains("secret"), "{e}");
    };
    says(&dataset("me/data"), &options, &["--dataset_config_name: `de`, `en`"]);
    let config = |c: &str| HubDataset { config: Some(c.into()), ..dataset("me/data") };
    assert_eq!(fetch(&config("de"), &options).unwrap().files.len(), 1);
    says(&config("fr"), &options, &["no configuration `fr`"]);
    let revision = |r: &str| HubDataset { revision: Some(r.into()), ..dataset("me/data") };
    says(
        &revision("v1"),
        &options,
        &["no file of a known format in revision v1; found `script.py`"],
    );
    says(&revision("v2"), &options, &["no such revision", "--dataset_revision"]);
    says(
        &dataset("me/none"),
        &options,
        &["the hub has no revision `main` of data set `me/none`", "check the name"],
    );
    for bad in ["../x", "a/b/c", "", "a b", "/x", "http://x"] {
        says(&dataset(bad), &options, &["is no name of a data set"]);
    }
    // Too many requests: after the wait that is asked for it goes on; a long one is said.
    world.lock().unwrap().first = vec![(429, "0"), (503, "0"), (500, "")];
    assert!(fetch(&config("en"), &options).is_ok());
    world.lock().unwrap().first = vec![(429, "3600")];
    says(&config("en"), &options, &["too many requests", "for 3600 seconds", "HF_TOKEN"]);
    world.lock().unwrap().first = vec![(500, ""); 9];
    says(&config("en"), &options, &["answers with status 500", "try again later"]);
    world.lock().unwrap().first.clear();
    world.lock().unwrap().token = Some("secret");
    says(&config("en"), &options, &["401", "set HF_TOKEN"]);
    let mut known = options.clone();
    known.token = Some("secret".into());
    assert!(fetch(&config("en"), &known).is_ok());
    known.token = Some("secret2".into());
    says(&config("en"), &known, &["the token given by HF_TOKEN has no right to it"]);
    known.token = Some("secret".into());
    world.lock().unwrap().gated = true;
    says(&config("en"), &known, &["conditions are accepted", "HF_TOKEN"]);
    let mut nowhere = options.clone();
    nowhere.endpoint = "http://127.0.0.1:1".into();
    says(
        &dataset("me/data"),
        &nowhere,
        &["can't reach http://127.0.0.1:1", "HF_ENDPOINT", "HF_HUB_OFFLINE"],
    );
}

#[test]
fn a_run_trains_on_a_data_set_of_the_hub_mixed_with_files() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let turns = |i: usize, who: &str| {
        format!(
            "{{\"conversations\":[{{\"from\":\"human\",\"value\":\"{who} {i}\"}},{{\"from\":\"gpt\",\"value\":\"yes {i}\"}}]}}\n"
        )
    };
    let rows = |n: usize, who: &str| -> String { (0..n).map(|i| turns(i, who)).collect() };
    let train = rows_file(tmp.path(), "t.parquet", &rows(30, "hub"));
    let validation = rows_file(tmp.path(), "v.parquet", &rows(4, "held"));
    let world = world(&[
        (PARQUET, "default/train/0000.parquet", train),
        (PARQUET, "default/validation/0000.parquet", validation),
    ]);
    let address = serve(&world, hub);
    let local = tmp.path().join("local.jsonl");
    std::fs::write(&local, rows(10, "file")).unwrap();
    let out = tmp.path().join("out");
    let output = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["sft", "--plugin", "sharegpt", "--plugin", "chatml", "--dataset_name", "me/data"])
        .args(["--train_file_dir", &arg(&local), "--dataset_weights", "0.5,0.5"])
        .args(["--mix_strategy", "interleave_under", "--max_steps", "2", "--report_to", "none"])
        .args(["--model_name_or_path", &arg(&model), "--output_dir", &arg(&out)])
        .args(["--tokenizer_name_or_path", &arg(golden("dpo_curve/tokenizer"))])
        .env("HF_ENDPOINT", &address)
        .env("HF_HOME", tmp.path().join("hf"))
        .env_remove("HF_TOKEN")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("mix (first_exhausted): 10 draws of 10 rows of"), "{said}");
    let manifest = json(out.join("trainer_manifest.json"));
    assert_eq!(manifest["train"].as_array().unwrap().len(), 2);
    assert_eq!(manifest["validation"].as_array().unwrap().len(), 1);
    let files = manifest["rows"]["train"]["files"].as_object().unwrap();
    let used: u64 = files.values().map(|f| f["used"].as_u64().unwrap()).sum();
    let not_drawn: u64 = files
        .values()
        .map(|f| f["skipped"]["not drawn into the mix"]["count"].as_u64().unwrap_or(0))
        .sum();
    assert_eq!(used + not_drawn, 40);
    assert!((11..30).contains(&used), "{used}");
    // Without a network, from what is cached.
    let preview = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args([
            "preview",
            "--plugin",
            "sharegpt",
            "--plugin",
            "chatml",
            "--dataset_name",
            "me/data",
        ])
        .args(["--model_name_or_path", &arg(&model), "--num_rows", "1", "--json", "True"])
        .args(["--tokenizer_name_or_path", &arg(golden("dpo_curve/tokenizer"))])
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", tmp.path().join("hf"))
        .output()
        .unwrap();
    assert!(preview.status.success(), "{}", text(&preview.stderr));
    assert!(!preview.stdout.is_empty());
}
