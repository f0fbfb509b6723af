// Renews the page while it is open (deployments/admin/live.py). The page is right without this file: a reload shows the same.
'use strict';
{
    const SECONDS_RUNNING = 2, SECONDS_RESTING = 30;
    const live = document.getElementById('live');
    const [status, said] = live.querySelectorAll('[role=status]');
    let seen = '', offset = null, timer = 0, asking = false, stopped = false, failed = 0;

    // Changes a part of the page in place: what stays the same keeps its focus, its selection, its scroll and its open details.
    const keyOf = node => node.nodeType === 1
        && (node.getAttribute('id') || node.getAttribute('data-key') || node.getAttribute('aria-labelledby')) || '';
    const byScript = node => node.nodeType === 1 && node.hasAttribute('data-by-script');
    // What a link or a button does: one that has the focus never becomes another one.
    const doneBy = node => node.nodeType === 1 && (node.getAttribute('href') || node.getAttribute('formaction')) || '';
    const alike = (one, other) => one.nodeName === other.nodeName && keyOf(one) === keyOf(other)
        && doneBy(one) === doneBy(other);
    const sameTime = (one, other) => one.nodeName === 'TIME' && one.dateTime === other.dateTime;
    const renew = (old, fresh) => {
        if (old.nodeType !== 1) {
            if (old.data !== fresh.data) old.data = fresh.data;
            return;
        }
        if (/^(input|select|textarea|noscript)$/i.test(old.nodeName)) return;
        for (const { name } of [...old.attributes]) {
            if (name !== 'open' && !fresh.hasAttribute(name)) old.removeAttribute(name);
        }
        for (const { name, value } of fresh.attributes) {
            if (name !== 'open' && old.getAttribute(name) !== value) old.setAttribute(name, value);
        }
        if (old === live || sameTime(old, fresh)) return;
        const keys = new Set([...fresh.childNodes].map(keyOf));
        for (const node of [...old.childNodes]) if (keyOf(node) && !keys.has(keyOf(node))) node.remove();
        let at = old.firstChild;
        for (const next of fresh.childNodes) {
            while (at && byScript(at)) at = at.nextSibling;
            const match = keyOf(next)
                ? [...old.childNodes].find(node => alike(node, next))
                : at && alike(at, next) && at;
            if (!match) {
                old.insertBefore(document.importNode(next, true), at);
                continue;
            }
            while (at !== match && at && !keyOf(at)) {
                const gone = at;
                at = at.nextSibling;
                gone.remove();
            }
            if (at === match) at = at.nextSibling; else old.insertBefore(match, at);
            renew(match, next);
        }
        while (at) {
            const gone = at;
            at = at.nextSibling;
            if (!byScript(gone)) gone.remove();
        }
    };

    // The words of times, as deployments/admin/display.py has them.
    const ABOUT = [['week', 604800], ['day', 86400], ['hour', 3600], ['minute', 60]];
    const counted = (number, unit) => `${number}\u00a0${unit}${number === 1 ? '' : 's'}`;
    const about = seconds => {
        const [unit, size] = ABOUT.find(each => seconds >= each[1]) || ABOUT[3];
        return counted(Math.floor(seconds / size), unit);
    };
    const ahead = seconds => {
        const minutes = Math.ceil(seconds / 60), hours = Math.floor(seconds / 3600 + .5);
        if (minutes < 60) return counted(minutes, 'minute');
        return hours < 24 ? counted(hours, 'hour') : counted(Math.max(1, Math.floor(seconds / 86400 + .5)), 'day');
    };
    const two = number => String(number).padStart(2, '0');
    const took = seconds => seconds < 60 ? `${seconds}s`
        : seconds < 3600 ? `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`
            : `${Math.floor(seconds / 3600)}h ${two(Math.floor(seconds % 3600 / 60))}m`;
    const words = (kind, age) => {
        if (kind === 'since') return took(Math.max(0, Math.round(age)));
        if (kind === 'until' && age < 0) return `in ${ahead(-age)}`;
        return age < 60 ? 'just now' : `${about(age)} ago`;
    };
    const tick = () => {
        if (offset === null || document.hidden) return;
        const now = Date.now() + offset;
        for (const time of document.querySelectorAll('time[data-live]')) {
            const age = (now - Date.parse(time.dateTime)) / 1000;
            if (time.dataset.live !== 'since' && age >= 28 * 86400) continue; // months: as the server wrote them
            const text = words(time.dataset.live, age);
            if (time.textContent !== text) time.textContent = text;
        }
    };

    const show = text => {
        const fresh = new DOMParser().parseFromString(text, 'text/html');
        const focused = document.activeElement;
        for (const id of ['shell-state', 'sections', 'content']) {
            const [old, next] = [document.getElementById(id), fresh.getElementById(id)];
            if (old && next) renew(old, next);
        }
        const token = document.querySelector('#logout-form [name=csrfmiddlewaretoken]');
        for (const input of document.querySelectorAll('[name=csrfmiddlewaretoken][value=kept]')) input.value = token.value;
        if (document.title !== fresh.title) {
            document.title = fresh.title;
            status.textContent = fresh.title;
        }
        // A button that has gone leaves the focus at the page's content, not at its start.
        if (!focused.isConnected) document.getElementById('content-start').focus({ preventScroll: true });
        document.dispatchEvent(new Event('renewed'));
    };
    const tell = (text, word) => {
        said.textContent = text;
        if (!word) return;
        const link = document.createElement('a');
        link.href = location.href.split('#')[0];
        link.textContent = word;
        said.append(' ', link);
    };
    const stop = text => {
        stopped = true;
        tell(`${text} This page no longer renews itself.`, 'Reload');
    };
    const wait = () => {
        clearTimeout(timer);
        if (stopped || document.hidden) return;
        const seconds = live.hasAttribute('data-running') ? SECONDS_RUNNING : SECONDS_RESTING;
        timer = setTimeout(poll, Math.min(seconds * 2 ** failed, SECONDS_RESTING) * 1000);
    };
    const poll = async () => {
        if (asking || stopped || document.hidden) return;
        asking = true;
        try {
            const answer = await fetch(location.href, {
                headers: { 'X-Live': '1', ...(seen && { 'If-None-Match': seen }) }, redirect: 'manual', cache: 'no-store',
            });
            const text = answer.status === 200 ? await answer.text() : '';
            const at = Date.parse(answer.headers.get('Date'));
            offset = Number.isNaN(at) ? 0 : at - Date.now();
            if (failed) tell('');
            failed = 0;
            if (answer.type === 'opaqueredirect') stop('Your log-in has ended.');
            else if (answer.status === 404) stop('The object of this page was deleted.');
            else if (answer.status !== 200 && answer.status !== 304) stop(`The server answered ${answer.status}.`);
            else if (text) {
                seen = answer.headers.get('ETag') || '';
                show(text);
            }
        } catch {
            failed += 1;
            if (failed === 1) tell('The server does not answer. This page shows the last answer, and tries again.', 'Reload');
        }
        asking = false;
        tick();
        wait();
    };

    document.addEventListener('visibilitychange', () => {
        clearTimeout(timer);
        poll();
    });
    setInterval(tick, 1000);
    wait();
}
