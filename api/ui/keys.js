// Keys. None does anything while somebody types, and all but Esc can be switched off.

/** Where `g` and a letter lead: the ends of the links in the navigation. @type {Record<string, string>} */
const PLACES = {
    o: '', d: 'deliveries', l: 'dead-letters', s: 'subscriptions', e: 'events', j: 'jobs', m: 'emitters', v: 'live', w: 'lanes',
    t: 'tenants', a: 'audit',
};
/** For how long `g` waits for its letter, in milliseconds. */
const CHORD_MS = 1200;
/** An id of anything. */
const ID = /[a-z]{3}_[0-9a-f]{32}/;
/** Kinds of fields into which nobody types. */
const BOXES = ['checkbox', 'radio'];

/** Where the browser keeps that keys are switched off. */
const OFF = 'postrider-keys-off';
/** How a delivery stands that is retried at once; others ask first. */
const RETRIED_AT_ONCE = ['pending', 'dead_letter'];

let chord = 0;
const toggle = document.getElementById('keys-toggle');

function areOff() {
    try { return localStorage.getItem(OFF) !== null; } catch { return false; }
}

/** Switches keys off or on. */
function switchKeys() {
    try {
        if (areOff()) localStorage.removeItem(OFF);
        else localStorage.setItem(OFF, 'yes');
    } catch { /* it is not remembered then */ }
    showSwitch();
    const announcer = document.getElementById('announcer');
    if (announcer) announcer.textContent = areOff() ? 'Keys are off' : 'Keys are on';
}

function showSwitch() {
    toggle?.setAttribute('aria-pressed', String(!areOff()));
    const word = toggle?.querySelector('span');
    if (word) word.textContent = areOff() ? 'Keys are off' : 'Keys are on';
}

/** @param {Element | null} element */
function isTyping(element) {
    if (element instanceof HTMLInputElement && BOXES.includes(element.type)) return false;
    return element instanceof HTMLElement
        && (element.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(element.tagName));
}

function rows() {
    return [...document.querySelectorAll('tbody tr')].filter(row => row.querySelector('a.open'));
}

/** @param {number} step */
function choose(step) {
    const all = rows();
    if (all.length === 0) turn(step > 0 ? 'next' : 'prev');
    const now = all.findIndex(row => row.classList.contains('chosen'));
    const next = all[Math.min(Math.max(now + step, 0), all.length - 1)];
    if (!next) return;
    all[now]?.classList.remove('chosen');
    next.classList.add('chosen');
    next.querySelector('a.open')?.focus({ preventScroll: true });
    next.scrollIntoView({ block: 'nearest' });
}

/** @param {string} letter */
function go(letter) {
    const end = PLACES[letter];
    const links = [...document.querySelectorAll('nav.side li a')];
    const link = links.find(link => (link.getAttribute('href') ?? '').replace(/^[./]*/, '').split('?')[0] === end);
    if (link instanceof HTMLElement) link.click();
}

/** Opens another page of the list. @param {string} way `prev` or `next` */
function turn(way) {
    const link = document.querySelector(`.paging a[rel=${way}]`);
    if (link instanceof HTMLElement) link.click();
}

/** The list of keys stands on the page about this installation. */
function help() {
    const link = document.querySelector('.foot a[href*=about]');
    if (link instanceof HTMLAnchorElement) location.assign(`${link.href}#keys`);
}

/** Ticks the chosen row, or takes the tick away. */
function tick() {
    const box = document.querySelector('tr.chosen td.pick input');
    if (box instanceof HTMLElement) box.click();
}

/** Opens the chosen row in a tab of its own. */
function openTab() {
    const link = document.querySelector('tr.chosen a.open');
    if (link instanceof HTMLAnchorElement) window.open(link.href, '_blank', 'noopener');
}

/** The id of the chosen row, or of what the page shows. */
function id() {
    const places = [document.querySelector('tr.chosen a.open')?.getAttribute('href') ?? '', location.pathname];
    return places.map(place => place.match(ID)?.[0]).find(found => found);
}

/**
 * Retries the chosen row, or the delivery of the page. What the page asks before, it asks here, too: then the button
 * that goes on has the focus, and Enter presses it.
 */
function retry() {
    const row = document.querySelector('tr.chosen');
    const own = row?.querySelector('form[action$="/retry"] button');
    const id = row?.id || location.pathname.match(ID)?.[0];
    const form = own ?? [...document.querySelectorAll('form[action$="/retry"]')]
        .find(form => id && form.getAttribute('action')?.includes(id))?.querySelector('button');
    const sure = form?.closest('.sure');
    if (sure) sure.setAttribute('open', '');
    if (form instanceof HTMLElement) return sure ? form.focus() : form.click();
    retryTicked(row);
}

/** Retries a row of a list by its box and the button below the list. @param {Element | null} row */
function retryTicked(row) {
    const box = row?.querySelector('td.pick input');
    if (!(box instanceof HTMLInputElement) || !(row instanceof HTMLElement)) return;
    for (const other of document.querySelectorAll('td.pick input:checked')) if (other !== box) other.click();
    if (!box.checked) box.click();
    const button = document.querySelector('#selected button[value=retry]');
    if (!(button instanceof HTMLElement)) return;
    if (RETRIED_AT_ONCE.includes(row.dataset.status ?? '')) button.click();
    else button.focus();
}

/** @param {string | undefined} text */
function copy(text) {
    if (text) document.dispatchEvent(new CustomEvent('copy-text', { detail: text }));
}

/** The colours after those of the page. */
function otherColours() {
    const buttons = [...document.querySelectorAll('.themes button')];
    const now = buttons.findIndex(button => button.getAttribute('aria-pressed') === 'true');
    const next = buttons[(now + 1) % buttons.length];
    if (next instanceof HTMLElement) next.click();
}

/** Presses a button of the bar, where it is there. @param {string} name */
function press(name) {
    const button = document.getElementById(name);
    if (button && !button.hidden) button.click();
}

function close() {
    const beside = document.querySelector('.beside > a.close');
    if (beside instanceof HTMLElement && !document.querySelector('.menu[open], .sure[open]')) beside.click();
    for (const open of document.querySelectorAll('.menu[open], .sure[open]')) {
        open.removeAttribute('open');
        open.querySelector('summary')?.focus();
    }
}

document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'Escape') {
        close();
        if (isTyping(document.activeElement)) document.activeElement?.blur();
        return;
    }
    if (areOff() || isTyping(document.activeElement)) return;
    if (Date.now() - chord < CHORD_MS) {
        chord = 0;
        if (event.key in PLACES) go(event.key);
        return;
    }
    switch (event.key) {
        case '/': document.getElementById('q')?.focus(); break;
        case 'g': chord = Date.now(); break;
        case 'j': choose(1); break;
        case 'k': choose(-1); break;
        case '[': turn('prev'); break;
        case ']': turn('next'); break;
        case 'x': tick(); break;
        case 'o': openTab(); break;
        case 'y': copy(id()); break;
        case 'c': copy(location.href); break;
        case 't': otherColours(); break;
        case '?': help(); break;
        case 'r': retry(); break;
        case 'p': press('live-toggle'); break;
        case 'z': document.getElementById('zones')?.dispatchEvent(new Event('next-zone')); break;
        default: return;
    }
    event.preventDefault();
});

// An open menu closes when something beside it is clicked.
document.addEventListener('click', event => {
    for (const open of document.querySelectorAll('.menu[open], .sure[open]')) {
        if (event.target instanceof Node && !open.contains(event.target)) open.removeAttribute('open');
    }
});

toggle?.addEventListener('click', switchKeys);
showSwitch();
