//! Files with mistakes, and keys of the wrong mode: a clear error, and nothing half-applied.

use std::path::PathBuf;
use std::process::Stdio;

use freehold::control_plane::plans::{self, SHIPPED};
use tokio::process::Command;

use super::till::Till;

/// A fleet, and files for it.
struct Desk {
    till: Till,
}

impl Desk {
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.till.world.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// How Stripe is reached, by a key that the process has in its environment.
    fn settings(&self, mode: &str) -> PathBuf {
        let here = match mode {
            "test" => format!("base_url = \"{}\"\n", self.till.stripe.base_url),
            _ => String::new(),
        };
        self.file(
            &format!("stripe-{mode}.toml"),
            &format!("mode = \"{mode}\"\nkey = \"env:STRIPE_KEY\"\n{here}"),
        )
    }

    /// Runs the program to its end: its exit code, and what it says on stderr.
    async fn freehold(&self, args: &[&str], key: &str) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_freehold"))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("FREEHOLD_HOME", self.till.world.folder.path())
            .env("FREEHOLD_CONTROL_URL", &self.till.world.control_url)
            .env("FREEHOLD_MASTER_KEY", &self.till.world.master_hex)
            .env("STRIPE_KEY", key)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(60), output).await;
        let output = output.expect("it ends").unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
    }

    /// Plans are as they were, nobody asked Stripe, and nothing was written into the audit log.
    async fn is_untouched(&self, what: &str) {
        let mut conn = self.till.db().acquire().await.unwrap();
        let now = plans::plan_list(&mut conn).await.unwrap();
        assert_eq!(now, plans::parse(SHIPPED).unwrap(), "{what}");
        assert!(self.till.stripe.asked("").is_empty(), "{what}: Stripe was asked");
        let lines: i64 =
            sqlx::query_scalar("SELECT count(*) FROM audit WHERE action LIKE 'plan%' AND actor <> 'test'")
                .fetch_one(&mut *conn)
                .await
                .unwrap();
        assert_eq!(lines, 0, "{what}");
    }
}

/// The line on which this is, of the file that is shipped.
fn line_of(text: &str) -> usize {
    SHIPPED.lines().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("no {text}")) + 1
}

/// Shown to fail: the settings read after the plans are applied.
#[tokio::test]
async fn a_plan_file_with_a_mistake_or_a_key_of_the_wrong_mode_changes_nothing() {
    let desk = Desk { till: Till::empty().await };
    let key = desk.till.stripe.key.clone();
    let (settings, live) = (desk.settings("test"), desk.settings("live"));
    let settings = settings.to_str().unwrap();
    let changed = SHIPPED.replacen("monthly_minor = 4900", "monthly_minor = 5900", 1);
    let good = desk.file("good.toml", &changed);

    let trial = line_of("trial_days = 14");
    let wrong = [
        (
            changed.replacen("trial_days = 14", "trial_days = 9000", 1),
            format!("line {trial}: plan team: a trial lasts"),
        ),
        (
            changed.replacen("seats = 50", "seats = 0", 1),
            "plan team: it grants nothing to work with: seats is 0".to_owned(),
        ),
        (changed.replacen("\"tasks_created\"", "\"coffees\"", 1), "coffees".to_owned()),
        (changed.replace("\"eur\"", "\"usd\""), "plan team is sold in eur".to_owned()),
        (
            changed.replacen("currency = \"eur\"", "currency = \"jpy\"", 1),
            "the currency \"jpy\" is none of".to_owned(),
        ),
        (changed.replacen("burst = 40", "burst = = 40", 1), format!("line {}", line_of("burst = 40"))),
    ];
    for (number, (text, says)) in wrong.iter().enumerate() {
        let file = desk.file(&format!("wrong-{number}.toml"), text);
        let args = ["plan", "apply", "--file", file.to_str().unwrap(), "--stripe", settings];
        let (code, stderr) = desk.freehold(&args, &key).await;
        assert!(code == 2 && stderr.contains(says.as_str()), "{says:?}: {code} {stderr}");
        desk.is_untouched(says).await;
    }

    let good = good.to_str().unwrap();
    let live = live.to_str().unwrap();
    for (settings, key, says) in [
        (settings, "sk_live_abcdef", "the key is not one of test mode"),
        (live, "sk_test_abcdef", "the key is not one of live mode"),
        (settings, "", "the key is not one of test mode"),
    ] {
        for args in [
            &["plan", "apply", "--file", good, "--stripe", settings][..],
            &["worker", "--stripe", settings],
            &["serve", "--http-addr", "127.0.0.1:0", "--stripe", settings],
        ] {
            let (code, stderr) = desk.freehold(args, key).await;
            assert!(code == 2 && stderr.contains(says), "{args:?}: {code} {stderr}");
            assert!(!stderr.contains("abcdef"), "a key in an error: {stderr}");
        }
        desk.is_untouched(says).await;
    }

    // The same file, with the right key.
    let args = ["plan", "apply", "--file", good, "--stripe", settings];
    let (code, stderr) = desk.freehold(&args, &key).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(desk.till.stripe.objects("price").iter().any(|price| price["unit_amount"] == 5900));
}
