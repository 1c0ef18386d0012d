//! The gateway from outside: the built program, real servers, foreign clients. One binary for
//! all, so that it is linked once, and RabbitMQ starts once.
//!
//! `./scripts/test.sh` installs what these tests need; `./scripts/test.sh -- e2e_restart` runs
//! those of one module.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod amqp_account;
mod amqp_cut;
mod amqp_deliveries;
mod amqp_deprecated;
mod amqp_features;
mod amqp_feeds;
mod amqp_publishing;
mod amqp_redelivering;
mod amqp_tls;
mod broker_contract;
mod broker_token;
mod cli;
mod control_answers;
mod doctor;
mod documents;
mod e2e_api;
mod e2e_bad_input;
mod e2e_bans;
mod e2e_browser;
mod e2e_chat;
mod e2e_client;
mod e2e_cluster;
mod e2e_control;
mod e2e_demo;
mod e2e_drain;
mod e2e_examples;
mod e2e_exchanges;
mod e2e_fast_keys;
mod e2e_faults;
mod e2e_hook_batches;
mod e2e_jwt;
mod e2e_liveness;
mod e2e_load_balancer;
mod e2e_login;
mod e2e_logs;
mod e2e_metrics;
mod e2e_nodes;
mod e2e_offline;
mod e2e_page;
mod e2e_perl_ruby;
mod e2e_presence;
mod e2e_python;
mod e2e_rabbitmq_accounts;
mod e2e_redis;
mod e2e_reload;
mod e2e_restart;
mod e2e_rooms;
mod e2e_sockjs;
mod e2e_stompjs;
mod e2e_tail;
mod e2e_tls;
mod e2e_tls_plugin;
mod e2e_told;
mod e2e_traces;
mod e2e_vhosts;
mod e2e_webhooks;
mod faults;
mod feed_whole;
mod foreign;
mod fuzz_listeners;
mod house;
mod install;
mod isolation_links;
mod isolation_logins;
mod isolation_memory;
mod isolation_places;
mod isolation_publishing;
mod isolation_refusals;
mod journal;
mod map;
mod presence_contract;
mod presence_failover;
mod presence_redis;
mod presence_rights;
mod presence_shared_user;
mod presence_survivor;
mod records_contract;
mod rooms_contract;
mod sequences_contract;
mod startup;
mod workflows;

use std::{ffi::OsStr, fs, path::Path};

/// A file that is not a module here would never run.
#[test]
fn every_file_is_a_module() {
    let folder = testkit::tests_dir().join("it");
    every_file_is_a_module_of(&folder, "main.rs");
}

fn every_file_is_a_module_of(folder: &Path, parent: &str) {
    let listed = fs::read_to_string(folder.join(parent)).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().and_then(OsStr::to_str).unwrap();
        if path.is_dir() {
            every_file_is_a_module_of(&path, "mod.rs");
        }
        assert!(
            path.ends_with(parent) || listed.contains(&format!("mod {name};\n")),
            "{parent} lacks `mod {name};`, in {}",
            folder.display()
        );
    }
}
