// Times. Pages come with UTC, which all who look at them share; a menu turns them into the reader's own time or that of
// any zone, and shows them to the millisecond. The browser keeps the choice.

const ZONE = 'postrider-zone';
const CHOSEN = 'postrider-zone-chosen';
const EXACT = 'postrider-exact';
const UTC = 'utc';
const LOCAL = 'local';

const menu = document.getElementById('zones');
const word = document.getElementById('zone');
const list = document.getElementById('zone-choice');
const exact = document.getElementById('exact-times');

/** @param {string} name */
function kept(name) {
    try { return localStorage.getItem(name) ?? ''; } catch { return ''; }
}

/** @param {string} name @param {string} value */
function keep(name, value) {
    try { localStorage.setItem(name, value); } catch { /* it is not remembered then */ }
}

/** Whether the browser knows a zone of this name. @param {string} zone */
function isKnown(zone) {
    try { return Boolean(new Intl.DateTimeFormat('en-GB', { timeZone: zone })); } catch { return false; }
}

/** The zone that is shown: `utc`, `local` or the name of one. */
function zone() {
    const zone = kept(ZONE);
    return zone === LOCAL || (zone && zone !== UTC && isKnown(zone)) ? zone : UTC;
}

/** The name by which the browser knows a zone; nothing for its own. @param {string} zone */
function named(zone) {
    if (zone === LOCAL) return undefined;
    return zone === UTC ? 'UTC' : zone;
}

/** What stands in the bar for a zone. @param {string} zone */
function short(zone) {
    if (zone === UTC) return 'UTC';
    return zone === LOCAL ? 'Local time' : (zone.split('/').pop() ?? zone).replaceAll('_', ' ');
}

/** For how long a writer is used before its day is looked at again, in milliseconds. */
const WRITER_MS = 30_000;
/** The writer that is in use, and since when. @type {{write: (at: Date, isExact: boolean) => string, since: number} | null} */
let last = null;

/** A writer of times in the chosen zone. */
function writer() {
    if (!last || Date.now() - last.since > WRITER_MS) last = { write: newWriter(), since: Date.now() };
    return last.write;
}

function newWriter() {
    const timeZone = named(zone());
    const day = new Intl.DateTimeFormat('en-CA', { timeZone, dateStyle: 'short' });
    const date = new Intl.DateTimeFormat('en-GB', { timeZone, day: 'numeric', month: 'short', year: 'numeric' });
    const parts = { timeZone, hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' };
    const clock = new Intl.DateTimeFormat('en-GB', parts);
    const exactClock = new Intl.DateTimeFormat('en-GB', { ...parts, fractionalSecondDigits: 3 });
    const [today, areExact] = [day.format(new Date()), kept(EXACT) !== ''];
    return (at, isExact) => {
        const text = (isExact || areExact ? exactClock : clock).format(at);
        return day.format(at) === today ? text : `${date.format(at)}, ${text}`;
    };
}

/** Writes the times within a part of the page. @param {ParentNode} part */
function write(part) {
    const text = writer();
    for (const time of part.querySelectorAll('time[datetime]')) {
        const at = new Date(time.getAttribute('datetime') ?? '');
        const written = Number.isNaN(at.getTime()) ? '' : text(at, time.hasAttribute('data-exact'));
        if (written && time.textContent !== written) time.textContent = written;
    }
}

function show() {
    const now = zone();
    last = null;
    if (word) word.textContent = short(now);
    menu?.querySelector('summary')?.setAttribute('title', `Times are in ${now === LOCAL ? 'local time' : named(now)}`);
    const main = document.getElementById('main');
    if (main) write(main);
}

/** Fills the list of zones, which is long, when it is first needed. */
function fill() {
    if (!(list instanceof HTMLSelectElement)) return;
    if (list.options.length === 0) {
        const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
        list.add(new Option('UTC', UTC));
        list.add(new Option(`Local time (${own})`, LOCAL));
        for (const name of Intl.supportedValuesOf?.('timeZone') ?? []) list.add(new Option(name.replaceAll('_', ' '), name));
    }
    const now = zone();
    if (![...list.options].some(option => option.value === now)) list.add(new Option(now, now));
    list.value = now;
}

/** @param {string} zone */
function choose(zone) {
    keep(ZONE, zone);
    if (zone !== UTC && zone !== LOCAL) keep(CHOSEN, zone);
    show();
    fill();
}

/** The zone after the one that is shown: UTC, the reader's own, and the one that was chosen last. */
function next() {
    const zones = [UTC, LOCAL, kept(CHOSEN)].filter(zone => zone && (zone === UTC || zone === LOCAL || isKnown(zone)));
    choose(zones[(zones.indexOf(zone()) + 1) % zones.length] ?? UTC);
}

menu?.addEventListener('toggle', fill);
menu?.addEventListener('next-zone', next);
list?.addEventListener('change', () => { if (list instanceof HTMLSelectElement) choose(list.value); });
if (exact instanceof HTMLInputElement) {
    exact.checked = kept(EXACT) !== '';
    exact.addEventListener('change', () => {
        keep(EXACT, exact.checked ? 'yes' : '');
        show();
    });
}
document.addEventListener('htmx:after:swap', show);
// Another script says that it has added rows; its detail is what they are in.
document.addEventListener('rows-came', event => { if (event.detail instanceof Element) write(event.detail); });
show();
