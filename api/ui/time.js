// Times. Pages come with UTC, which all who look at them share; a button turns them into the reader's own time.

const KEY = 'postrider-zone';
const button = document.getElementById('zone');

/** @returns {boolean} */
function isLocal() {
    try { return localStorage.getItem(KEY) === 'local'; } catch { return false; }
}

/** @param {Date} at @param {boolean} local */
function text(at, local) {
    const zone = local ? undefined : 'UTC';
    const day = date => new Intl.DateTimeFormat('en-CA', { timeZone: zone, dateStyle: 'short' }).format(date);
    const clock = new Intl.DateTimeFormat('en-GB', { timeZone: zone, timeStyle: 'medium' }).format(at);
    if (day(at) === day(new Date())) return clock;
    const date = new Intl.DateTimeFormat('en-GB', { timeZone: zone, day: 'numeric', month: 'short', year: 'numeric' });
    return `${date.format(at)}, ${clock}`;
}

function show() {
    const local = isLocal();
    if (button) {
        button.textContent = local ? 'Local time' : 'UTC';
        button.setAttribute('aria-label', local ? 'Times are local. Show UTC' : 'Times are in UTC. Show local times');
    }
    for (const time of document.querySelectorAll('main time[datetime]')) {
        const at = new Date(time.getAttribute('datetime') ?? '');
        if (!Number.isNaN(at.getTime())) time.textContent = text(at, local);
    }
}

function toggle() {
    try { localStorage.setItem(KEY, isLocal() ? 'utc' : 'local'); } catch { /* it is not remembered then */ }
    show();
}

button?.addEventListener('click', toggle);
document.addEventListener('htmx:after:swap', show);
show();
