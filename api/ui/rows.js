// Rows of a list: those that are ticked, the one that is open beside the list, the way from one to the next, and further
// ones where few match.

/** From this width on, there is room for a delivery beside a list, in pixels. */
const WIDE = '(min-width: 1180px)';

const form = document.getElementById('selected');
const every = document.getElementById('select-all');
/** The box that was clicked last, from which a click with shift reaches. @type {HTMLInputElement | undefined} */
let last;

/** @returns {HTMLInputElement[]} */
function boxes() {
    return [...document.querySelectorAll('td.pick input')];
}

/** Shows what can be done with the ticked rows, and hides it where none is ticked. */
function show() {
    if (!form) return;
    const all = boxes();
    const ticked = all.filter(box => box.checked).length;
    form.hidden = ticked === 0;
    const count = document.getElementById('selection-count');
    if (count) count.textContent = `${ticked} ticked:`;
    form.querySelector('.all-that-match')?.toggleAttribute('hidden', ticked < all.length);
    if (every instanceof HTMLInputElement) {
        every.checked = ticked === all.length;
        every.indeterminate = ticked > 0 && ticked < all.length;
    }
    for (const box of all) box.closest('tr')?.classList.toggle('ticked', box.checked);
}

/** @param {HTMLInputElement} box @param {boolean} reaches whether all rows from the last one to this one are meant */
function ticked(box, reaches) {
    const all = boxes();
    const [from, to] = [last ? all.indexOf(last) : -1, all.indexOf(box)].sort((a, b) => a - b);
    if (reaches && from >= 0) for (const one of all.slice(from, to + 1)) one.checked = box.checked;
    last = box;
    show();
}

document.addEventListener('click', event => {
    const target = event.target instanceof Element ? event.target : null;
    if (target === every && every instanceof HTMLInputElement) {
        for (const box of boxes()) box.checked = every.checked;
        show();
    } else if (target instanceof HTMLInputElement && target.matches('td.pick input')) {
        ticked(target, event.shiftKey);
    }
    const link = target?.closest('a[data-beside]');
    const isPlain = !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey && event.button === 0;
    if (link instanceof HTMLElement && isPlain && matchMedia(WIDE).matches) {
        event.preventDefault();
        location.assign(link.dataset.beside ?? '');
    }
});

show();

// The page of a delivery leads on to its neighbours in the list that was looked at last, in this tab.

const KEY = 'postrider-list';

/** @typedef {{address: string, ids: string[]}} List */

/** @returns {List | undefined} */
function lastList() {
    try { return JSON.parse(sessionStorage.getItem(KEY) ?? 'null') ?? undefined; } catch { return undefined; }
}

function keepList() {
    const ids = [...document.querySelectorAll('tr[id^=dlv_]')].map(row => row.id);
    if (!document.querySelector('a[data-beside]')) return;
    try { sessionStorage.setItem(KEY, JSON.stringify({ address: location.href, ids })); } catch { /* it is not kept */ }
}

function showWay() {
    const id = location.pathname.match(/\/deliveries\/(dlv_[0-9a-f]{32})$/)?.[1];
    const list = lastList();
    const place = id && list ? list.ids.indexOf(id) : -1;
    if (!list || place < 0) return;
    const way = document.createElement('nav');
    way.className = 'paging way';
    way.setAttribute('aria-label', 'The list where this delivery stands');
    const link = (href, rel, word) => {
        const made = document.createElement('a');
        made.className = 'button';
        made.href = href;
        if (rel) made.rel = rel;
        made.textContent = word;
        return made;
    };
    const beside = document.createElement('div');
    const [before, after] = [list.ids[place - 1], list.ids[place + 1]];
    if (before) beside.append(link(`./${before}${location.search}`, 'prev', 'Newer'));
    if (after) beside.append(link(`./${after}${location.search}`, 'next', 'Older'));
    way.append(link(list.address, '', `Back to the list (${place + 1} of ${list.ids.length})`), beside);
    document.getElementById('main')?.prepend(way);
}

// A list of which few rows match looks further by itself for a while, and says how far it has come.

/** How long a list looks further by itself, in milliseconds. */
const LOOK_MS = 5000;
/** Rows with which a page is full. */
const ROWS_MAX = 50;

/** What a list says of how far it has looked. @param {Element} looked @param {number} examined @param {number} rows */
function sayHowFar(looked, examined, rows) {
    const line = looked.querySelector('p');
    const time = looked.querySelector('time');
    const count = examined.toLocaleString('en').replaceAll(',', '\u202f');
    line?.replaceChildren(`Looked at ${count} ${looked instanceof HTMLElement ? looked.dataset.noun : ''}`,
        ...(time ? [', back to ', time] : []), `; ${rows} of them match.`);
}

/** The part of another page of this list. @param {string} address @param {AbortSignal} signal */
async function partAt(address, signal) {
    const answer = await fetch(address, { signal });
    if (!answer.ok) return null;
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const part = page.getElementById('list');
    return part?.querySelector('.trouble') ? null : part;
}

/** @param {HTMLElement} looked */
async function lookFurther(looked) {
    const [list, body] = [looked.closest('#list'), looked.closest('#list')?.querySelector('tbody')];
    if (!list || !body) return;
    const stopped = new AbortController();
    const stop = document.createElement('button');
    stop.type = 'button';
    stop.className = 'button';
    stop.textContent = 'Stop';
    stop.addEventListener('click', () => stopped.abort());
    const [began, each] = [performance.now(), Number(looked.dataset.examined)];
    /** @type {HTMLElement | null} */
    let now = looked;
    let [examined, isAsked] = [each, true];
    while (now && isAsked && !stopped.signal.aborted && body.rows.length < ROWS_MAX && performance.now() - began < LOOK_MS) {
        const link = now.querySelector('a');
        if (link) link.hidden = true;
        now.append(stop);
        /** @type {HTMLElement | null} */
        let part = null;
        try { part = await partAt(link?.href ?? '', stopped.signal); } catch { /* it was stopped, or nothing came */ }
        if (link) link.hidden = false;
        stop.remove();
        isAsked = part !== null;
        if (!part) break;
        body.append(...part.querySelectorAll('tbody tr'));
        const [next, paging] = [part.querySelector('.looked'), part.querySelector('.paging')];
        if (body.rows.length === 0 && !next) list.replaceChildren(...part.childNodes);
        list.querySelector('.paging')?.replaceWith(...(paging ? [paging] : []));
        if (next instanceof HTMLElement) {
            examined += each;
            now.replaceWith(next);
            sayHowFar(next, examined, body.rows.length);
        } else {
            now.remove();
            if (paging && !paging.isConnected) list.append(paging);
        }
        now = next instanceof HTMLElement ? next : null;
        show();
        keepList();
        document.dispatchEvent(new CustomEvent('rows-came', { detail: list }));
    }
    const announcer = document.getElementById('announcer');
    if (announcer) announcer.textContent = now?.querySelector('p')?.textContent ?? `${body.rows.length} rows match`;
}

keepList();
showWay();
const looked = document.querySelector('.looked');
if (looked instanceof HTMLElement) lookFurther(looked);
