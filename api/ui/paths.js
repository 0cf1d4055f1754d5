// JSON: a click on a line of a payload shows how a filter names the value that stands there, and a payload is shown as a
// tree that can be searched. It is read line by line as the server has written it, so numbers keep all their digits.

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

/** Lines of JSON that are shown as a tree, at most. */
const LINES_MAX = 20_000;

/** A name, a click on which copies the path to its value. @param {string} text @param {string} kind @param {string} path */
function piece(text, kind, path) {
    const made = document.createElement('button');
    made.type = 'button';
    made.className = kind;
    made.textContent = text;
    made.title = `Copy the path ${path}`;
    made.dataset.copy = path;
    return made;
}

/** The tree of a text that has a line for each field and item. @param {string[]} lines */
function tree(lines) {
    const root = document.createElement('ul');
    /** What is open; `items` counts those of an array. @type {{list: HTMLElement, summary: HTMLElement | null, items: number | null, places: (string | number)[]}[]} */
    const open = [{ list: root, summary: null, items: null, places: [] }];
    for (const line of lines) {
        const text = line.trim().replace(/,$/, '');
        const within = open[open.length - 1];
        if (/^[}\]]$/.test(text)) {
            const count = within.list.children.length;
            const noun = within.items === null ? 'field' : 'item';
            within.summary?.append(` ${count} ${noun}${count === 1 ? '' : 's'}`);
            open.pop();
            continue;
        }
        const name = open.length > 1 && within.items === null ? text.match(/^"(?:[^"\\]|\\.)*"/)?.[0] : undefined;
        const value = name === undefined ? text : text.slice(name.length).replace(/^:\s*/, '');
        const place = name === undefined ? within.items : JSON.parse(name);
        if (within.items !== null) within.items += 1;
        const places = place === null ? [] : [...within.places, place];
        const item = document.createElement('li');
        const label = place === null ? [] : [piece(String(place), 'key', written(places)), ': '];
        if (/^[[{]$/.test(value)) {
            const [details, summary, list] = ['details', 'summary', 'ul'].map(tag => document.createElement(tag));
            details.setAttribute('open', '');
            summary.append(place === null ? '' : `${place}: `, value === '[' ? 'list of' : 'object of');
            details.append(summary, list);
            item.append(details);
            open.push({ list, summary, items: value === '[' ? 0 : null, places });
        } else {
            const shown = document.createElement('code');
            shown.textContent = value;
            item.append(...label, shown);
        }
        within.list.append(item);
    }
    return root;
}

/** What a line of the tree says by itself, without what is below it. @param {Element} item */
function ownText(item) {
    return (item.querySelector(':scope > details > summary') ?? item).textContent?.toLowerCase() ?? '';
}

/** Shows a payload as a tree with a search. @param {HTMLElement} box */
function plant(box) {
    const text = box.querySelector('code')?.textContent ?? '';
    const lines = text.split('\n');
    if (!/^[{[]\n/.test(text) || lines.length > LINES_MAX) return;
    const [shown, field, label, search, count] = ['div', 'div', 'label', 'input', 'p'].map(tag => document.createElement(tag));
    if (!(search instanceof HTMLInputElement) || !(label instanceof HTMLLabelElement)) return;
    shown.className = 'tree';
    field.className = 'field';
    [label.htmlFor, search.id, search.type] = ['tree-search', 'tree-search', 'search'];
    label.textContent = 'Search in names and values';
    count.className = 'hint';
    count.setAttribute('role', 'status');
    field.append(label, search);
    const root = tree(lines);
    shown.append(field, count, root);
    box.after(shown);
    box.hidden = true;
    const items = [...root.querySelectorAll('li')];
    let at = 0;
    const hits = () => items.filter(item => item.classList.contains('hit'));

    function look() {
        const asked = search.value.trim().toLowerCase();
        const found = new Set(asked ? items.filter(item => ownText(item).includes(asked)) : []);
        const around = new Set();
        for (const hit of found) for (let up = hit.parentElement; up && up !== root; up = up.parentElement) around.add(up);
        for (const item of items) {
            item.classList.toggle('hit', found.has(item));
            const isBelow = item.parentElement?.closest('li.hit');
            item.hidden = asked !== '' && !found.has(item) && !around.has(item) && !isBelow;
        }
        for (const one of around) if (one instanceof HTMLDetailsElement) one.open = true;
        count.textContent = asked ? `${found.size} of ${items.length} lines match` : `${items.length} lines`;
        at = 0;
    }

    search.addEventListener('input', look);
    search.addEventListener('keydown', event => {
        if (event.key !== 'Enter') return;
        event.preventDefault();
        const all = hits();
        all[at % all.length]?.scrollIntoView({ block: 'center' });
        at += 1;
    });
    look();
}

for (const box of document.querySelectorAll('[data-tree] .code-box')) if (box instanceof HTMLElement) plant(box);
