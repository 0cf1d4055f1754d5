// Buttons that copy a text or a link, and times, of which a click copies the exact one. The Clipboard API exists on secure pages only; elsewhere a selected text is copied.

/** How long a button shows that it has copied, in milliseconds. */
const SHOWN_MS = 1500;

/** The units of relative times, in milliseconds. @type {Record<string, number>} */
const UNITS_MS = { m: 60_000, h: 3_600_000, d: 86_400_000 };

/** @param {string} text */
async function copy(text) {
    if (navigator.clipboard && window.isSecureContext) {
        await navigator.clipboard.writeText(text);
        return;
    }
    const area = document.createElement('textarea');
    area.value = text;
    area.className = 'unseen';
    document.body.append(area);
    area.select();
    const copied = document.execCommand('copy');
    area.remove();
    if (!copied) throw new Error('nothing was copied');
}

/** Tells people who cannot see it what has happened. @param {string} sentence */
function announce(sentence) {
    const announcer = document.getElementById('announcer');
    if (announcer) announcer.textContent = sentence;
}

/** The link to this page that goes on showing the time that it shows now: what is relative becomes absolute. */
function fixed() {
    const link = new URL(location.href);
    const at = ms => new Date(performance.timeOrigin - ms).toISOString();
    for (const name of ['since', 'until']) {
        const [, number, unit] = link.searchParams.get(name)?.match(/^(\d{1,4})([mhd])$/) ?? [];
        if (unit) link.searchParams.set(name, at(Number(number) * UNITS_MS[unit]));
    }
    if (!link.searchParams.get('until')) link.searchParams.set('until', at(0));
    return link.href;
}

/** @param {string} text @param {HTMLElement} [place] what shows for a moment that it was copied */
async function take(text, place) {
    try {
        await copy(text);
        announce(`Copied: ${text.slice(0, 120)}`);
        if (!place) return;
        place.dataset.done = '';
        setTimeout(() => delete place.dataset.done, SHOWN_MS);
    } catch {
        announce('The text could not be copied');
    }
}

document.addEventListener('click', event => {
    const place = event.target instanceof Element ? event.target.closest('[data-copy], [data-link], main time[datetime]') : null;
    if (!(place instanceof HTMLElement) || place.closest('a, summary')) return;
    if (place.dataset.link) take(place.dataset.link === 'fixed' ? fixed() : location.href, place);
    else take(place.dataset.copy ?? place.getAttribute('datetime') ?? '', place);
});

// Another script asks for a copy by this event, whose detail is the text.
document.addEventListener('copy-text', event => take(event.detail));

document.documentElement.classList.add('scripts');
