//! Tenants in a cloud, with the real Terraform: see `freehold::testkit::chaos::cloud`.

use freehold::testkit::Cluster;
use freehold::testkit::chaos::cloud::{Plan, run};
use freehold::testkit::figures::Goal;
use freehold::testkit::program::{Args, Outcome, Section};

pub const CLOUD: Section = Section {
    name: "cloud",
    about: "10 pooled and 2 dedicated tenants by the real Terraform; worker and Terraform killed twenty times each",
    run: |args| Box::pin(cloud(args)),
};

async fn cloud(args: &Args) -> Outcome {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|folder| folder.join("terraform").is_file()) {
        let why = "there is no terraform on the PATH";
        return Outcome { goals: vec![Goal::unchecked("tenants in a cloud", why)], ..Outcome::default() };
    }
    Cluster::durable().await;
    let plan = Plan { pooled: args.count(10), dedicated: args.count(2), at_once: 4, kills: args.count(20) };
    run(env!("CARGO_BIN_EXE_freehold"), &plan).await
}
