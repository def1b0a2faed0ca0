//! `c3os install`: from the live medium to a machine's disk.
//!
//! ```text
//! configuration: --config FILE|URL, else the cidata drive, else the keyboard ── checked like `validate`
//! disk:          --device, else install.device, else the only empty one ────── guarded: in use never, not empty with --wipe
//! other disks:   must have none of the labels that this one gets
//! ```
//!
//! The machine that boots from the disk makes its own identity: nothing of `/usr/local/.c3os` is copied.

use std::{
    fmt::Write as _,
    fs,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use zeroize::Zeroizing;

use super::{generate_token::new_token, validate};
use crate::{
    config::{self, AtBoot, Install, MAX_FILE_BYTES, Parsed, Severity, Source},
    host::disk::{self, Content, Disk, Guard, Label, Layout},
    token::NetworkToken,
};

/// What NoCloud's drive holds, in the order in which the cloud-init runner looks.
const SEED: [&str; 2] = ["/run/cidata/user-data", "/run/cidata/config"];
/// The system on the live medium.
const IMAGE: &str = "/run/initramfs/live/rootfs.squashfs";
/// The label of the live medium: a disk with it is no second system.
const MEDIUM: &str = "COS_LIVE";
/// What a disk boots from, below the root.
const LOADERS: &str = "usr/lib/c3os/boot";
/// A server that does not answer within this is not there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Installs the live system on a disk of this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The disk; `auto` is the only one that is empty. The configuration's `install.device` if not given.
    #[arg(long, value_name = "DEVICE", env = "C3OS_INSTALL_DEVICE")]
    device: Option<String>,
    /// Configuration: a file, `-` for stdin, or an http:// address. Without it: the cidata drive, else you are asked.
    #[arg(long, value_name = "FILE|URL", env = "C3OS_INSTALL_CONFIG", conflicts_with = "no_config")]
    config: Option<String>,
    /// No configuration: the machine takes it from a cidata drive when it boots.
    #[arg(long)]
    no_config: bool,
    /// Overwrite a disk that holds something.
    #[arg(long, env = "C3OS_INSTALL_WIPE")]
    wipe: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Neither reboot nor power off, whatever the configuration says.
    #[arg(long)]
    stay: bool,
    /// Do it only if the configuration says `install.auto: true`; for units.
    #[arg(long, hide = true)]
    if_auto: bool,
    /// The system to install.
    #[arg(long, hide = true, default_value = IMAGE)]
    image: PathBuf,
    /// Where the kernel and the boot loader are.
    #[arg(long, hide = true, default_value = "/")]
    root: PathBuf,
}

/// Installs.
///
/// # Errors
/// What is in the way, and what to do about it. Before anything is written.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    ensure!(
        args.image.is_file(),
        "{} is missing: install from the live medium (on a system of elemental's: elemental install)",
        args.image.display()
    );
    let loaders = args.root.join(LOADERS);
    ensure!(loaders.is_dir(), "{} is missing: this image cannot install itself", loaders.display());
    let text = if args.no_config { None } else { Some(configuration(args.config.as_deref())?) };
    let parsed = text.as_ref().map(|(place, text)| checked(place, text)).transpose()?;
    let settings = parsed.as_ref().map_or_else(Install::default, |parsed| parsed.config.install.clone());
    if args.if_auto && !settings.auto {
        return Ok(ExitCode::SUCCESS);
    }
    parsed.map_or(Ok(()), has_its_token)?;
    let disk = choose(args.device.as_deref().unwrap_or(&settings.device))?;
    guard(&disk, args.wipe)?;
    let image = fs::metadata(&args.image).context("the system's image")?.len();
    let layout = disk::layout(disk.size, image).map_err(|needed| {
        anyhow::anyhow!("{} has {}, and {} are needed", disk.path.display(), mib(disk.size), mib(needed))
    })?;
    // A file is for another machine.
    if !disk.path.is_file() {
        alone(&disk, &disk::disks(), &layout)?;
    }
    if !(args.yes || args.if_auto) {
        confirm(&disk)?;
    }
    let scratch = tempfile()?;
    let content = Content {
        image: &args.image,
        boot: &args.root.join("boot"),
        loaders: &loaders,
        config: text.as_ref().map(|(_, text)| text.as_slice()),
        seed: seed(),
        scratch: &scratch,
    };
    eprintln!("c3os: writing {} ({})", disk.path.display(), mib(disk.size));
    let done = disk::install(&disk.path, &layout, &content, &mut |step| eprintln!("c3os: {step}"));
    let tidied = fs::remove_dir_all(&scratch);
    done?;
    tidied.with_context(|| format!("removing {}", scratch.display()))?;
    eprintln!("c3os: installed; the machine's identity is made at its first boot from the disk");
    if !args.stay && text.is_some() {
        leave(&settings)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration, and what to call the place that it is from.
fn configuration(from: Option<&str>) -> anyhow::Result<(String, Zeroizing<Vec<u8>>)> {
    match from {
        Some("-") => Ok(("stdin".to_owned(), bounded(io::stdin(), "stdin")?)),
        Some(url) if url.starts_with("http://") => Ok((url.to_owned(), fetch(url)?)),
        Some(url) if url.contains("://") => {
            bail!("{url}: only http:// is spoken here; fetch it to a file, and give that")
        }
        Some(path) => Ok((path.to_owned(), file(Path::new(path))?)),
        None => match SEED.iter().map(Path::new).find(|path| path.is_file()) {
            Some(path) => Ok((path.display().to_string(), file(path)?)),
            None => Ok(("what you said".to_owned(), ask()?)),
        },
    }
}

fn file(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let name = path.display().to_string();
    bounded(fs::File::open(path).with_context(|| format!("cannot read {name}"))?, &name)
}

fn bounded(from: impl Read, name: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::new());
    from.take(MAX_FILE_BYTES as u64 + 1)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {name}"))?;
    Ok(text)
}

fn fetch(url: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    super::runtime()?.block_on(async {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let mut answer = client.get(url).send().await?.error_for_status()?;
        let mut text = Zeroizing::new(Vec::new());
        while let Some(chunk) = answer.chunk().await? {
            text.extend_from_slice(&chunk);
            ensure!(text.len() <= MAX_FILE_BYTES, "{url}: more than {MAX_FILE_BYTES} bytes");
        }
        Ok(text)
    })
}

/// Asks whoever sits at the machine for the little that is needed.
fn ask() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    ensure!(
        io::stdin().is_terminal(),
        "there is no configuration: attach a drive with the label cidata and a file user-data on it, or give --config"
    );
    eprintln!("No cidata drive. Two questions, or Ctrl-C and --config FILE|URL.");
    let token = Zeroizing::new(answer("Network token (empty: this is the first machine, make one): ")?);
    let token = if token.is_empty() {
        let token = new_token(Vec::new())?.encode();
        eprintln!(
            "The token, for every other machine and your laptop; it is shown this once:\n{}",
            token.as_str()
        );
        token.as_str().to_owned()
    } else {
        NetworkToken::parse(&token)?;
        token.to_string()
    };
    let token = Zeroizing::new(token);
    let nodes = answer("How many machines will there be (empty: not known): ")?;
    let nodes =
        if nodes.is_empty() { None } else { Some(nodes.parse::<u16>().context("a number of machines")?) };
    Ok(Zeroizing::new(config::create_config(&token, nodes, None).into_bytes()))
}

fn answer(question: &str) -> anyhow::Result<String> {
    eprint!("{question}");
    let mut line = String::new();
    io::stdin().read_line(&mut line).context("reading the keyboard")?;
    Ok(line.trim().to_owned())
}

/// As strict as `validate`: on a disk that is about to be written, a mistake is cheap to mend.
fn checked(place: &str, text: &[u8]) -> anyhow::Result<Parsed> {
    let mut parsed = config::parse(&[Source { path: place.to_owned(), text: text.to_vec() }], "");
    validate::check_token(&mut parsed);
    let mut wrong = String::new();
    for mistake in &parsed.mistakes {
        match mistake.severity {
            Severity::Error => writeln!(wrong, "{mistake}")?,
            Severity::Warning => eprintln!("{mistake}"),
        }
    }
    ensure!(wrong.is_empty(), "nothing was written; first mend\n{wrong}");
    Ok(parsed)
}

/// The configuration is the one file that is put on the disk: a token beside it would stay behind.
fn has_its_token(mut parsed: Parsed) -> anyhow::Result<()> {
    if let Some(file) = parsed.token_file.take() {
        let hint = "write the token itself into this file, as `network_token`";
        let message = format!("{file} is not put on the disk: the machine would join no mesh");
        parsed.refuse("c3os.network_token_file", AtBoot::NoMesh, message, Some(hint.to_owned()));
    }
    match parsed.mistakes.iter().find(|mistake| mistake.severity == Severity::Error) {
        Some(mistake) => bail!("nothing was written; first mend\n{mistake}"),
        None => Ok(()),
    }
}

/// The disk that is meant.
fn choose(device: &str) -> anyhow::Result<Disk> {
    if device != "auto" {
        return Ok(disk::look(Path::new(device))?);
    }
    one_of(disk::disks())
}

/// Without a name, only a choice that nobody can be surprised by: the one empty disk.
fn one_of(disks: Vec<Disk>) -> anyhow::Result<Disk> {
    let list = disks.iter().fold(String::new(), |list, disk| list + "\n  " + &told(disk));
    let mut empty: Vec<Disk> = disks.into_iter().filter(|disk| disk.guards.is_empty()).collect();
    match (empty.pop(), empty.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => bail!("several disks are empty; say which with --device:{list}"),
        (None, _) if list.is_empty() => bail!("this machine has no disk"),
        (None, _) => bail!("no disk is empty; say which one to overwrite with --device and --wipe:{list}"),
    }
}

fn told(disk: &Disk) -> String {
    let mut line = format!("{}  {}", disk.path.display(), mib(disk.size));
    for guard in &disk.guards {
        let _ = write!(line, "; {guard}");
    }
    line
}

fn guard(disk: &Disk, wipe: bool) -> anyhow::Result<()> {
    for guard in &disk.guards {
        match guard {
            Guard::Unfit(_) | Guard::InUse(_) => {
                bail!("{} {guard}; nothing was written", disk.path.display())
            }
            Guard::Holds(_) if !wipe => {
                bail!("{} {guard}; nothing was written. --wipe overwrites it", disk.path.display())
            }
            Guard::Holds(_) => {}
        }
    }
    Ok(())
}

/// At boot, GRUB and the initramfs take the first partition with a label: with the same labels on a second disk, nobody
/// knows which system starts, nor with whose identity.
fn alone(disk: &Disk, disks: &[Disk], layout: &Layout) -> anyhow::Result<()> {
    let ours = |label: &&Label| layout.partitions.iter().any(|part| part.label == Some(&label.text));
    let is_medium = |other: &Disk| other.labels.iter().any(|label| label.text == MEDIUM);
    for other in disks.iter().filter(|other| other.path != disk.path && !is_medium(other)) {
        let same: Vec<&Label> = other.labels.iter().filter(ours).collect();
        ensure!(
            same.is_empty(),
            "{} has {}, which {} would get too: the machine could start from either. Nothing was written; take {0} out, \
             or, if nothing on it is needed: wipefs --all {}",
            other.path.display(),
            same.iter().map(|label| label.text.as_str()).collect::<Vec<_>>().join(", "),
            disk.path.display(),
            same.iter().map(|label| label.device.to_string_lossy()).collect::<Vec<_>>().join(" "),
        );
    }
    Ok(())
}

fn confirm(disk: &Disk) -> anyhow::Result<()> {
    ensure!(io::stdin().is_terminal(), "nobody is here to be asked; --yes installs without");
    let name = disk.path.display().to_string();
    let said = answer(&format!("All of {} will be gone. Type {name} to go on: ", told(disk)))?;
    ensure!(said == name, "nothing was written");
    Ok(())
}

/// A directory in memory that only root reads.
fn tempfile() -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let path = std::env::temp_dir().join(format!("c3os-install-{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

/// Random; where builds have to be repeatable, made from their one clock.
fn seed() -> [u8; 16] {
    let clock = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse::<u128>().ok());
    clock.map_or_else(rand::random, u128::to_be_bytes)
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// What the configuration wants done when all is written.
fn leave(settings: &Install) -> anyhow::Result<()> {
    let verb = if settings.poweroff {
        "poweroff"
    } else if settings.reboot {
        "reboot"
    } else {
        return Ok(());
    };
    eprintln!("c3os: {verb}");
    let status = Command::new("systemctl").arg(verb).status().with_context(|| format!("systemctl {verb}"))?;
    ensure!(status.success(), "systemctl {verb} failed ({status}); do it by hand");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_disk(path: &str, guards: &[Guard]) -> Disk {
        Disk { path: path.into(), size: 8 << 30, guards: guards.to_vec(), labels: Vec::new() }
    }

    fn labelled(path: &str, labels: &[&str]) -> Disk {
        let label = |(number, text): (usize, &&str)| Label {
            text: (*text).to_owned(),
            device: format!("{path}{}", number + 1).into(),
        };
        Disk { labels: labels.iter().enumerate().map(label).collect(), ..a_disk(path, &[]) }
    }

    fn holds() -> Guard {
        Guard::Holds("ext4 photos".to_owned())
    }

    #[test]
    fn without_a_name_only_the_one_empty_disk_is_taken() {
        let full = a_disk("/dev/sda", &[holds()]);
        let used = a_disk("/dev/sdb", &[Guard::InUse("sdb1 is mounted at /mnt".to_owned())]);
        let empty = a_disk("/dev/sdc", &[]);
        assert_eq!(one_of(vec![full.clone(), used.clone(), empty.clone()]).unwrap(), empty);
        let two = one_of(vec![empty.clone(), a_disk("/dev/sdd", &[])]).unwrap_err().to_string();
        assert!(two.contains("/dev/sdc") && two.contains("/dev/sdd") && two.contains("--device"), "{two}");
        let none = one_of(vec![full, used]).unwrap_err().to_string();
        assert!(
            none.contains("photos") && none.contains("mounted at /mnt") && none.contains("--wipe"),
            "{none}"
        );
        assert!(one_of(Vec::new()).is_err());
    }

    #[test]
    fn what_a_disk_holds_is_kept_and_a_disk_in_use_is_never_overwritten() {
        assert!(guard(&a_disk("/dev/sda", &[]), false).is_ok());
        let full = a_disk("/dev/sda", &[holds()]);
        assert!(guard(&full, false).unwrap_err().to_string().contains("--wipe"));
        assert!(guard(&full, true).is_ok());
        let used = a_disk("/dev/sda", &[Guard::InUse("sda1 is mounted at /mnt".to_owned())]);
        assert!(guard(&used, true).unwrap_err().to_string().contains("mounted at /mnt"));
        let unfit = a_disk("/dev/sda", &[Guard::Unfit("its sectors".to_owned())]);
        assert!(guard(&unfit, true).unwrap_err().to_string().contains("cannot be used (its sectors)"));
    }

    #[test]
    fn no_other_disk_may_have_the_labels_that_this_one_gets() {
        let layout = disk::layout(8 << 30, 140 << 20).unwrap();
        let chosen = labelled("/dev/sda", &["COS_STATE", "COS_OEM"]);
        let medium = labelled("/dev/sdb", &["COS_LIVE", "COS_PERSISTENT"]);
        let photos = labelled("/dev/sdc", &["photos", "COS_STATE_OF_MIND"]);
        alone(&chosen, &[chosen.clone(), medium, photos.clone()], &layout).unwrap();
        let old = labelled("/dev/sdd", &["photos", "COS_OEM", "COS_STATE"]);
        let error = alone(&chosen, &[photos, old, chosen.clone()], &layout).unwrap_err().to_string();
        for word in ["/dev/sdd has COS_OEM, COS_STATE", "/dev/sda", "wipefs --all /dev/sdd2 /dev/sdd3"] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_configuration_with_a_mistake_is_not_installed() {
        let error = checked("user-data", b"c3os:\n  rolle: master\n").unwrap_err().to_string();
        assert!(error.contains("user-data:2:3") && error.contains("did you mean"), "{error}");
        let parsed = checked("user-data", b"install:\n  auto: true\n  device: /dev/sda\n").unwrap();
        let settings = parsed.config.install;
        assert!(settings.auto && settings.device == "/dev/sda");
    }

    #[test]
    fn a_token_in_a_file_that_nobody_puts_on_the_disk_is_refused() {
        let parsed = checked("user-data", b"c3os:\n  network_token_file: /oem/token\n").unwrap();
        let error = has_its_token(parsed).unwrap_err().to_string();
        assert!(error.contains("user-data:2:23: error: c3os.network_token_file"), "{error}");
        assert!(error.contains("`network_token`"), "{error}");
    }

    #[test]
    fn the_example_for_installing_can_be_installed() {
        let example = include_str!("../../cloud-config-schema/unattended-install.yaml");
        let placeholder = "this-is-no-token-but-the-place-for-one-from-c3os-generate-token";
        let token = include_str!("../../tests/fixture/token/ours-1.token").trim();
        let parsed = checked("example", example.replace(placeholder, token).as_bytes()).unwrap();
        assert!(parsed.config.install.auto && parsed.config.network_token.is_some());
        has_its_token(parsed).unwrap();
    }

    #[test]
    fn only_addresses_that_are_understood_are_fetched() {
        let error = configuration(Some("https://example.com/config")).unwrap_err().to_string();
        assert!(error.contains("only http://"), "{error}");
    }
}
