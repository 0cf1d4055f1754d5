// Buttons that copy a text. The Clipboard API exists on secure pages only; elsewhere a selected text is copied.

/** How long a button shows that it has copied, in milliseconds. */
const SHOWN_MS = 1500;

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

document.addEventListener('click', async event => {
    const button = event.target instanceof Element ? event.target.closest('button[data-copy]') : null;
    if (!(button instanceof HTMLElement)) return;
    try {
        await copy(button.dataset.copy ?? '');
        button.dataset.done = '';
        announce('Copied');
        setTimeout(() => delete button.dataset.done, SHOWN_MS);
    } catch {
        announce('The text could not be copied');
    }
});

document.documentElement.classList.add('scripts');
