//! Two machines in one room: a short code that is said aloud, and four words that both screens show.

use larder_tests::{World, cluster, json};

#[test]
fn a_short_code_and_four_words_let_a_machine_in() {
    let world = World::new();
    let (laptop, desktop) = (world.machine("laptop"), world.machine("desktop"));
    laptop.found();
    // Nobody is asked off a terminal, and nobody is let in unasked.
    laptop.fails(2, "bad-request", ["invite", "--words"]);

    let mut inviting = laptop.command(["invite", "--words", "--yes"]).start();
    let open = inviting.next_object();
    let (code, at) = (json::text(&open, "code").to_owned(), json::list(&open, "at"));
    assert_eq!(code.split('-').count(), 4, "{code}");
    let at: Vec<_> = at.iter().flat_map(|at| ["--at", at.as_str().unwrap()]).collect();
    desktop.fails(2, "bad-request", [["join", &code], ["--name", "desktop"]].concat().into_iter().chain(at.clone()));
    let joining = [["join", &code], ["--name", "desktop"]].concat().into_iter().chain(at).chain(["--yes"]);
    let joined = desktop.run(joining).expect(0);

    let shown = |stderr: &str| {
        let line = stderr.lines().find_map(|line| line.strip_prefix("Both screens must show these words: "));
        line.unwrap_or_else(|| panic!("no words: {stderr}")).to_owned()
    };
    let inviting = inviting.wait().expect(0);
    let words = shown(&joined.stderr);
    assert_eq!((words.split_whitespace().count(), &words), (4, &shown(&inviting.stderr)));
    let last = inviting.objects().pop().unwrap();
    assert_eq!((&last["device"], &last["state"]), (&"desktop".into(), &"used".into()));

    let both = [laptop, desktop];
    cluster::all_online(&both);
    cluster::agree(&both);
}

#[test]
fn three_wrong_codes_burn_it() {
    let world = World::new();
    let (laptop, stranger) = (world.machine("laptop"), world.machine("stranger"));
    laptop.found();
    let mut inviting = laptop.command(["invite", "--words", "--yes"]).start();
    let open = inviting.next_object();
    let code = json::text(&open, "code").to_owned();
    let number = code.split('-').next().unwrap();
    let guess = ["apple", "river", "onion"].join("-");
    let guess = format!("{number}-{guess}");
    assert_ne!(guess, code, "one in 2^33");
    let at = json::list(&open, "at")[0].as_str().unwrap().to_owned();
    let join = |code: &str| stranger.run(["join", code, "--at", &at, "--yes"]);
    let kinds: Vec<_> = (0..4).map(|_| join(&guess).expect(5).error_kind().unwrap()).collect();
    assert_eq!(&kinds[..2], ["invite-wrong", "invite-wrong"], "{kinds:?}");
    // Now the right one is worth nothing either.
    let right = join(&code);
    assert_ne!(right.code(), Some(0), "{right:?}");
    assert_ne!(inviting.wait().code(), Some(0));
    assert!(laptop.objects(["device", "list"]).len() == 1);
}
