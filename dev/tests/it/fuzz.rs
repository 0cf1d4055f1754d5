//! Runs the targets of the fuzzer on a bounded number of random inputs, which are the same in each run.

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

#[path = "../../../fuzz/targets.rs"]
mod targets;

/// Each target gets this many inputs.
const CASES: u32 = 4000;

/// Words that the targets know. Inputs made of them get past the first check.
const WORDS: &[&str] = &[
    "sha256=",
    "v0=",
    "v1=",
    "v1,",
    "v1a,",
    "t=",
    ",",
    " ",
    "\n",
    "=",
    "1700000000",
    "99999999999999999999",
    "-1",
    "0",
    "whsec_",
    "whsk_",
    "whpk_",
    "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "AAAA",
    "==",
    "sub_",
    "evt_",
    "dlv_",
    "key_",
    "job_",
    "01a20f54d87472efbdfd91d700276483",
    "FF",
    ".",
    "*",
    "order",
    ".*",
    "{",
    "}",
    "[",
    "]",
    ":",
    "\"",
    "\"a.b\"",
    "\"$and\"",
    "\"$or\"",
    "\"$not\"",
    "\"$in\"",
    "\"$gt\"",
    "\"$exists\"",
    "{\"a\":1}",
    "true",
    "null",
    "1e308",
    "\\u0000",
    "\"",
    "\\ud83d",
    "\\ude00",
    "12345678901234567890",
    "e+",
    "\u{feff}",
    "\0",
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "\u{e9}",
    "\u{1f600}",
    "\r\n",
    "\t",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
    "\nvendor=x",
    ",other@vendor=y z",
];

fn inputs() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => (0..WORDS.len()).prop_map(|place| WORDS[place].as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..8),
        1 => Just(b"a".to_vec()),
    ];
    vec(word, 0..24).prop_map(|words| words.concat())
}

#[test]
fn no_input_breaks_a_promise() {
    for (name, target) in targets::TARGETS {
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let ran = TestRunner::new_with_rng(config, rng).run(&inputs(), |data| {
            target(&data);
            Ok(())
        });
        ran.unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}
