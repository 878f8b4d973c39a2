//! `umbra-lab`: whole networks of Umbra's programs on one machine, for demonstrations and tests.
//!
//! [`lab::World`] makes the network and runs programs in it; [`service`] holds the services that it protects;
//! [`probe`] asks them, so that a test needs no other program ([`exchange`]: do bytes come out as they went in?); [`program`] is a program that wants an identity; [`scan`] looks for whatever answers a stranger, [`leaks`] for
//! what leaves a host in the clear; [`authenticator`] is the app on a phone, [`issuer`] a platform that gives programs tokens, [`perimeter`] brings a whole organisation up, [`demo`] shows it, [`measure`] takes its
//! figures, [`bench`] compares its speed with that of others, [`interop`] puts our packet path at one end of a tunnel and another program at the other, [`check`] makes bad days happen, [`wire`] says which calls and
//! texts there are, [`parsers`] lists whatever reads what others wrote, and [`command`] is the command line.

pub mod attacker;
pub mod authenticator;
pub mod bench;
pub mod check;
pub mod command;
pub mod demo;
pub mod exchange;
pub mod interop;
pub mod issuer;
pub mod lab;
pub mod leaks;
pub mod measure;
pub mod parsers;
pub mod perimeter;
pub mod person;
pub mod probe;
pub mod program;
pub mod provider;
pub mod scan;
pub mod service;
pub mod web;
pub mod wire;
