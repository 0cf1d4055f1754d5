// The live page: rows, numbers and a chart of the last minute, from a stream of server-sent events.

const ROWS_MAX = 200;
const SECONDS = 60;
const HEIGHT = 132;
/** How often the numbers are said aloud at most, in milliseconds. */
const SAID_EVERY_MS = 10_000;
/** What a topic looks like: its colour and its words. @type {Record<string, [string, string]>} */
const LOOKS = {
    'delivery.queued': ['plain', 'Queued'],
    'delivery.started': ['info', 'Started'],
    'delivery.succeeded': ['ok', 'Succeeded'],
    'delivery.failed': ['warn', 'Failed, another attempt follows'],
    'delivery.dead_letter': ['bad', 'Dead letter'],
    'circuit.opened': ['bad', 'Circuit opened'],
    'circuit.half_open': ['warn', 'Circuit half open'],
    'circuit.closed': ['ok', 'Circuit closed'],
};

const feed = document.getElementById('feed');
if (feed) watch(feed);

/** @param {HTMLElement} feed */
function watch(feed) {
    const root = feed.dataset.root ?? '';
    const body = feed.querySelector('tbody');
    const state = feed.querySelector('[data-state]');
    const chart = feed.querySelector('svg');
    const toggle = document.getElementById('live-toggle');
    /** @type {{ok: number, bad: number}[]} */
    const seconds = [];
    /** @type {EventSource | undefined} */
    let source;
    let [shown, seen, saidAt] = [0, 0, 0];

    const isPaused = () => toggle?.getAttribute('aria-pressed') === 'true';
    const tell = text => { if (state) state.textContent = text; };

    function open() {
        if (source || document.hidden) return;
        source = new EventSource(feed.dataset.source ?? '');
        source.onopen = () => tell('live');
        source.onerror = () => tell('connecting again');
        source.onmessage = event => {
            const message = JSON.parse(event.data);
            if (message.topic === 'metrics.second') second(message.numbers);
            else if (message.topic === 'gap') tell(gap(message.missed));
            else take(message);
        };
    }

    function close() {
        source?.close();
        source = undefined;
    }

    /** @param {any} message */
    function take(message) {
        shown += 1;
        if (isPaused() || !body) return;
        const made = row(message, root);
        body.prepend(made);
        document.dispatchEvent(new CustomEvent('rows-came', { detail: made }));
        while (body.children.length > ROWS_MAX) body.lastElementChild?.remove();
    }

    /** @param {any} numbers */
    function second({ counts, seen: all, p95_ms: p95, source: from }) {
        seen += all;
        seconds.push({ ok: counts.succeeded, bad: counts.failed + counts.dead_letter });
        if (seconds.length > SECONDS) seconds.shift();
        if (isPaused()) return tell('paused');
        tell(from === 'live' ? `live: ${shown} of ${seen} shown` : 'live reports do not reach this server: see the statistics');
        for (const figure of feed.querySelectorAll('[data-figure]')) {
            const name = figure.dataset.figure;
            figure.textContent = name === 'p95' ? took(p95) : String(counts[name]);
        }
        draw();
        if (Date.now() - saidAt < SAID_EVERY_MS || all === 0) return;
        saidAt = Date.now();
        const announcer = document.getElementById('announcer');
        if (announcer) announcer.textContent = `${counts.succeeded} succeeded and ${counts.failed} failed in the last second`;
    }

    function draw() {
        if (!chart) return;
        const most = Math.max(1, ...seconds.map(({ ok, bad }) => ok + bad));
        const bars = [];
        seconds.forEach(({ ok, bad }, place) => {
            const x = (SECONDS - seconds.length + place) * 10 + 1;
            const [high, low] = [(ok / most) * HEIGHT, (bad / most) * HEIGHT];
            bars.push(bar('ok', x, HEIGHT - high, high), bar('bad', x, HEIGHT - high - low, low));
        });
        chart.replaceChildren(...bars);
    }

    document.addEventListener('visibilitychange', () => (document.hidden ? close() : open()));
    addEventListener('pagehide', close);
    tell('connecting');
    open();
}

/** @param {string} kind @param {number} x @param {number} y @param {number} height */
function bar(kind, x, y, height) {
    const rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
    for (const [name, value] of Object.entries({ class: kind, x, y, width: 8, height })) rect.setAttribute(name, String(value));
    return rect;
}

/** @param {number | undefined} missed */
function gap(missed) {
    return missed === undefined ? 'some seconds are missing' : `${missed} seconds are missing`;
}

/** @param {number | undefined} ms */
function took(ms) {
    if (ms === undefined) return '–';
    return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** @param {any} message @param {string} root */
function row(message, root) {
    const [tone, word] = LOOKS[message.topic] ?? ['plain', message.topic.replace('audit.', '')];
    const time = element('time', new Date(message.at).toISOString().slice(11, 23));
    time.setAttribute('datetime', message.at);
    time.dataset.exact = '';
    const badge = element('span', word);
    badge.className = `badge ${tone}`;
    const target = message.delivery_id
        ? link(`${root}deliveries/${message.delivery_id}`, badge) : badge;
    const receiver = message.subscription_id
        ? link(`${root}subscriptions/${message.subscription_id}`, element('code', short(message.subscription_id)))
        : element('span', message.target_id ?? (message.delivery_id ? 'inline' : '–'));
    const answer = element('span', [message.status_code, message.error_kind, message.actor].filter(Boolean).join(' ') || '–');
    const tr = document.createElement('tr');
    const cells = [
        ['Time', time], ['What', target], ['Event type', element('code', message.event_type ?? '–')],
        ['Receiver', receiver], ['Answer', answer], ['Took', element('span', took(message.duration_ms))],
    ];
    for (const [label, content] of cells) {
        const td = document.createElement('td');
        td.dataset.label = label;
        if (label === 'Took') td.className = 'number';
        td.append(content);
        tr.append(td);
    }
    return tr;
}

/** @param {string} name @param {string} text */
function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
}

/** @param {string} href @param {Node} content */
function link(href, content) {
    const made = document.createElement('a');
    made.href = href;
    made.append(content);
    return made;
}

/** @param {string} id */
function short(id) {
    return `${id.slice(0, 8)}…${id.slice(-6)}`;
}
