// Live numbers of a sweep. The page is right without this file: a reload shows the same.
'use strict';
{
    const panel = document.querySelector('[data-progress]');
    const shown = (selector, text) => {
        const element = panel.querySelector(selector);
        if (element && element.textContent !== text) element.textContent = text;
    };
    let pause = 1000;
    const poll = async () => {
        try {
            const answer = await fetch(panel.dataset.progress, { headers: { Accept: 'application/json' } });
            if (!answer.ok) throw new Error(answer.status);
            const sweep = await answer.json();
            if (!sweep.running) return location.reload();
            pause = 1000;
            shown('[data-words]', sweep.words);
            shown('[data-waiting]', sweep.waiting);
            panel.querySelector('[data-waiting]').hidden = !sweep.waiting;
            for (const part of sweep.parts) {
                shown(`[data-number="${part.name}"]`, String(part.number));
                const bar = panel.querySelector(`[data-part="${part.name}"]`);
                bar.setAttribute('x', part.x);
                bar.setAttribute('width', part.width);
            }
        } catch {
            pause = Math.min(pause * 2, 4000);
        }
        setTimeout(poll, pause);
    };
    if (panel) {
        if (!panel.querySelector('[data-static] code')) panel.querySelector('[data-static]').hidden = true;
        setTimeout(poll, pause);
    }
}
