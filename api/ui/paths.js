// Paths in JSON: a click on a line of a payload shows how a filter names the value that stands there.

/** Spaces by which a line is indented for each level. */
const INDENT = 2;

/**
 * The path to the value of a line, such as `items.0.sku`; empty where it is the whole.
 * @param {string[]} lines of JSON with a line for each field and item @param {number} at the place of the line
 */
function path(lines, at) {
    /** @type {(string | number)[]} */
    const places = [];
    /** Whether what is open at a level is a list, and how many items it has had. @type {{isList: boolean, items: number}[]} */
    const open = [];
    let depth = 0;
    for (const line of lines.slice(0, at + 1)) {
        const text = line.trimStart();
        depth = (line.length - text.length) / INDENT;
        if (/^[}\]]/.test(text)) continue;
        const within = open[depth - 1];
        if (within?.isList) places[depth - 1] = within.items++;
        else if (within) places[depth - 1] = JSON.parse(text.match(/^"(?:[^"\\]|\\.)*"/)?.[0] ?? '""');
        open[depth] = { isList: text.endsWith('['), items: 0 };
    }
    return written(places.slice(0, depth));
}

/**
 * A path as filters take it: names with dots between them, or a JSON pointer where a name would be misread.
 * @param {(string | number)[]} places
 */
function written(places) {
    const isPlain = name => name !== '' && !/[./]|^\$/.test(String(name));
    if (places.every(isPlain)) return places.join('.');
    return places.map(name => `/${String(name).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}

/** The text before the place of a click, within an element. @param {MouseEvent} event @param {Element} element */
function textBefore(event, element) {
    const range = document.caretRangeFromPoint?.(event.clientX, event.clientY);
    const place = range ?? document.caretPositionFromPoint?.(event.clientX, event.clientY);
    const [node, offset] = range ? [range.startContainer, range.startOffset] : [place?.offsetNode, place?.offset];
    if (!node || !element.contains(node)) return undefined;
    return (element.textContent ?? '').slice(0, offset);
}

document.addEventListener('click', event => {
    const code = event.target instanceof Element ? event.target.closest('.code-box code') : null;
    if (!code || !getSelection()?.isCollapsed || !/^[{[]\n/.test(code.textContent ?? '')) return;
    const before = textBefore(event, code);
    if (before === undefined) return;
    let found;
    try { found = path((code.textContent ?? '').split('\n'), before.split('\n').length - 1); } catch { return; }
    if (!found) return;
    const box = code.closest('.code-box');
    const shown = box?.querySelector('.path') ?? document.createElement('p');
    shown.className = 'path hint';
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.copy = found;
    button.textContent = 'Copy';
    button.setAttribute('aria-label', `Copy the path ${found}`);
    const words = document.createElement('code');
    words.textContent = found;
    shown.replaceChildren('Path: ', words, ' ', button);
    box?.append(shown);
});
