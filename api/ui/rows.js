// Rows of a list: those that are ticked, the one that is open beside the list, and the way from one to the next.

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

keepList();
showWay();
