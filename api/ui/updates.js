// Live updates: their pause, and what is shown where they fail. Old numbers stay then, and say how old they are.

const pause = document.getElementById('live-toggle');
const live = ['live', 'newer', 'feed'].map(name => document.getElementById(name)).find(found => found);
/** How often the ages of old numbers are written anew, in milliseconds. */
const AGES_EVERY_MS = 5000;

let isPaused = false;
/** When each part of the page was last good, by its heading; what is not here is as old as the page. @type {Map<string, number>} */
const goodAt = new Map();
/** What stands for the whole page among its parts. */
const WHOLE = '';

function togglePause() {
    isPaused = !isPaused;
    pause?.setAttribute('aria-pressed', String(isPaused));
    const word = pause?.querySelector('span');
    if (word) word.textContent = isPaused ? 'Paused' : 'Live';
    announce(isPaused ? 'Live updates are paused' : 'Live updates go on');
}

/** Tells people who cannot see it what has happened. @param {string} sentence */
function announce(sentence) {
    const announcer = document.getElementById('announcer');
    if (announcer) announcer.textContent = sentence;
}

/** The part of a page to which an element belongs: what has a heading or a name of its own. @param {Element} element */
function partOf(element) {
    return element.closest('section, [aria-label]:not([role])');
}

/** @param {Element} part */
function headingOf(part) {
    return part.querySelector('h2')?.textContent ?? part.getAttribute('aria-label') ?? '';
}

/** How old something is, in words. @param {string} heading */
function age(heading) {
    const seconds = Math.round((Date.now() - (goodAt.get(heading) ?? performance.timeOrigin)) / 1000);
    return seconds < 120 ? `${seconds} s` : `${Math.floor(seconds / 60)} min`;
}

/** @param {string} heading @param {string} why */
function mark(heading, why) {
    const made = document.createElement('p');
    made.className = 'stale';
    made.dataset.of = heading;
    made.dataset.why = why;
    write(made);
    return made;
}

/** @param {HTMLElement} mark */
function write(mark) {
    mark.textContent = `Numbers of ${age(mark.dataset.of ?? WHOLE)} ago: ${mark.dataset.why}`;
}

/** Puts what was good until now in the place of what could not be loaded. @param {Element} target @param {ParentNode} fresh */
function keepGood(target, fresh) {
    const now = Date.now();
    const old = new Map([...target.querySelectorAll('section, [aria-label]:not([role])')].map(part => [headingOf(part), part]));
    for (const part of fresh.querySelectorAll('section, [aria-label]:not([role])')) {
        if (!part.querySelector('.trouble')) goodAt.set(headingOf(part), now);
    }
    for (const trouble of fresh.querySelectorAll('.trouble')) {
        const part = partOf(trouble);
        const heading = part ? headingOf(part) : '';
        const good = old.get(heading);
        if (!part || !heading || !good || good.querySelector('.trouble')) continue;
        const kept = good.cloneNode(true);
        if (!(kept instanceof Element)) continue;
        for (const one of kept.querySelectorAll('.stale')) one.remove();
        const first = kept.querySelector(':scope > header') ?? kept.querySelector('h2');
        const said = mark(heading, 'newer ones could not be loaded.');
        if (first) first.after(said);
        else kept.prepend(said);
        part.replaceWith(kept);
    }
}

/** Says that the whole page is old, because nothing comes. */
function failed() {
    const part = document.getElementById('live');
    if (!part || document.querySelector('.stale.whole')) return;
    const said = mark(WHOLE, 'the server does not answer.');
    said.classList.add('whole');
    part.before(said);
    announce(said.textContent ?? '');
}

pause?.addEventListener('click', togglePause);
if (!live?.hasAttribute('hx-get') && !live?.dataset.source && pause instanceof HTMLElement) pause.hidden = true;

// Nothing is replaced under somebody's hands, and nothing is asked for that nobody sees.
document.addEventListener('htmx:before:request', event => {
    const part = document.getElementById('live');
    const isInUse = part?.contains(document.activeElement) || part?.querySelector('.sure[open]');
    if (isPaused || document.hidden || isInUse) event.preventDefault();
});

// An answer that is no page, such as the end of the session, is not put into one.
document.addEventListener('htmx:before:swap', event => {
    const { ctx, tasks } = event.detail ?? {};
    const status = ctx?.response?.raw?.status ?? ctx?.response?.status ?? 200;
    if (status === 401) location.reload();
    if (status >= 400) {
        event.preventDefault();
        return failed();
    }
    for (const { target, fragment } of tasks ?? []) {
        if (target instanceof Element && target.id === 'live' && fragment) {
            document.querySelector('.stale.whole')?.remove();
            goodAt.set(WHOLE, Date.now());
            keepGood(target, fragment);
        }
    }
});
document.addEventListener('htmx:error', failed);

setInterval(() => {
    for (const mark of document.querySelectorAll('.stale')) if (mark instanceof HTMLElement) write(mark);
}, AGES_EVERY_MS);
