//! Machines that could not hear each other agree afterwards.

use larder_tests::{World, cluster, data, process::stop_and_go};

/// Both sides of a split change what they have; one of them is stopped dead, as a broken network looks to the other.
#[test]
fn both_sides_of_a_split_agree_afterwards() {
    let world = World::new();
    let [laptop, desktop, nas] = world.group(["laptop", "desktop", "nas"]);
    let (photos, films) = (laptop.folder("photos"), desktop.folder("films"));
    let first = data::file(&photos.join("first.jpg"), 1, 50_000);
    laptop.add("photos", &photos);
    nas.finds("first", &first);
    desktop.finds("first", &first);

    let second = stop_and_go(&desktop.process(), || {
        let second = data::file(&photos.join("second.jpg"), 2, 50_000);
        laptop.object(["index", "photos"]);
        nas.finds("second", &second);
        second
    });
    desktop.finds("second", &second);

    // Now apart in turns: each changes while it is alone.
    laptop.down();
    let film = data::file(&films.join("film.mp4"), 3, 50_000);
    desktop.add("films", &films);
    nas.finds("film", &film);
    desktop.down();
    laptop.up();
    let third = data::file(&photos.join("third.jpg"), 4, 50_000);
    laptop.object(["index", "photos"]);
    laptop.finds("film", &film);
    desktop.up();
    desktop.finds("third", &third);
    cluster::agree(&[laptop, desktop, nas]);
}
