//! The icons of the dashboard as one SVG file, made of files of the package `lucide-static`. The build script makes it
//! for release builds, and a debug build makes it when it starts.

use std::{fs, io, path::Path};

/// The folder of the icons below `node_modules`.
pub const FOLDER: &str = "lucide-static/icons";

/// What every symbol says behind its name: how the package draws its lines.
const SYMBOL: &str = "\" viewBox=\"0 0 24 24\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"2\" \
                      stroke-linecap=\"round\" stroke-linejoin=\"round\">";

/// The names of the icons that pages use, in the alphabet's order.
pub const ICONS: [&str; 55] = [
    "activity",
    "arrow-right",
    "audio-waveform",
    "ban",
    "bookmark",
    "check",
    "chevron-left",
    "chevron-right",
    "circle-alert",
    "circle-check",
    "circle-dashed",
    "circle-pause",
    "circle-x",
    "clock",
    "code-xml",
    "copy",
    "download",
    "external-link",
    "eye",
    "history",
    "hourglass",
    "inbox",
    "info",
    "key-round",
    "layout-dashboard",
    "link",
    "list-checks",
    "list-filter",
    "loader-circle",
    "log-out",
    "mail-check",
    "mail-x",
    "monitor",
    "moon",
    "pause",
    "pencil",
    "play",
    "plus",
    "power",
    "power-off",
    "radio-tower",
    "rotate-cw",
    "route",
    "scroll-text",
    "search",
    "send",
    "settings",
    "shield-check",
    "sun",
    "timer",
    "triangle-alert",
    "unplug",
    "users",
    "webhook",
    "x",
];

/// Makes the file: each icon is a symbol with its name.
///
/// # Errors
/// When an icon cannot be read, or is not what the package's icons look like.
pub fn make(folder: &Path) -> io::Result<String> {
    let mut sprite = "<svg xmlns=\"http://www.w3.org/2000/svg\">".to_owned();
    for name in ICONS {
        let file = fs::read_to_string(folder.join(format!("{name}.svg")))?;
        let drawing = file.split_once("<svg").and_then(|(_, rest)| rest.split_once('>'));
        let drawing = drawing.and_then(|(_, rest)| rest.split_once("</svg>"));
        let (drawing, _) = drawing.ok_or_else(|| io::Error::other(format!("{name}.svg is no icon")))?;
        sprite.push_str("<symbol id=\"");
        sprite.push_str(name);
        sprite.push_str(SYMBOL);
        for line in drawing.lines() {
            sprite.push_str(line.trim());
        }
        sprite.push_str("</symbol>");
    }
    sprite.push_str("</svg>\n");
    Ok(sprite)
}
