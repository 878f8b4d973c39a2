// A person at a browser, for the whole-system tests: headless Chromium with an authenticator of its own, as one that is built into a laptop.
//
//   node chromium.mjs PROFILE NAME
//
// Each line on standard input is an address to go to; what the page says in the end is one line of JSON on standard output: {"url", "text"}.
// On the way NAME is typed in where a page asks who that is, and every form is sent off; where a page asks for a passkey, a finger is there.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

const [profile, name] = process.argv.slice(2);
const words = [
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--no-first-run',
  '--disable-extensions',
  '--disable-background-networking',
  '--disable-component-update',
  '--no-proxy-server',
  // The provider's certificate is the test's own.
  '--ignore-certificate-errors',
  '--remote-debugging-pipe',
  `--user-data-dir=${profile}`,
  'about:blank',
];
const browser = spawn('chromium', words, { stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe'] });
browser.on('exit', () => process.exit());
process.on('exit', () => browser.kill('SIGKILL'));

// The DevTools protocol: JSON, each message ended by a zero byte.
const waiting = new Map();
let last = 0;
let rest = Buffer.alloc(0);
browser.stdio[4].on('data', (piece) => {
  rest = Buffer.concat([rest, piece]);
  for (let end = rest.indexOf(0); end >= 0; end = rest.indexOf(0)) {
    const message = JSON.parse(rest.subarray(0, end).toString());
    rest = rest.subarray(end + 1);
    const { resolve, reject } = waiting.get(message.id) ?? {};
    waiting.delete(message.id);
    if (message.error) reject?.(new Error(message.error.message));
    else resolve?.(message.result);
  }
});
const call = (method, params = {}, sessionId = undefined) =>
  new Promise((resolve, reject) => {
    last += 1;
    waiting.set(last, { resolve, reject });
    browser.stdio[3].write(`${JSON.stringify({ id: last, method, params, sessionId })}\0`);
  });

const { targetInfos } = await call('Target.getTargets');
const { targetId } = targetInfos.find((target) => target.type === 'page');
const { sessionId: page } = await call('Target.attachToTarget', { targetId, flatten: true });
await call('WebAuthn.enable', {}, page);
const { authenticatorId } = await call(
  'WebAuthn.addVirtualAuthenticator',
  {
    options: {
      protocol: 'ctap2',
      transport: 'internal',
      hasResidentKey: true,
      hasUserVerification: true,
      isUserVerified: true,
      automaticPresenceSimulation: true,
    },
  },
  page,
);

// What the page is, once it is there: who is asked for, what can be sent off, and whether a passkey was asked for and is over.
const LOOK = `(() => {
  if (document.readyState !== 'complete') return { busy: true };
  const state = document.getElementById('state')?.textContent ?? '';
  const waits = document.getElementById('start') !== null && (state === '' || state.startsWith('Your browser asks'));
  const form = document.querySelector('form');
  return { url: location.href, text: document.body.innerText, busy: waits, form: form !== null };
})()`;
// Typed in, and sent off as by its own button.
const SEND = `(() => {
  const form = document.querySelector('form');
  for (const field of form.querySelectorAll('input')) {
    if (field.name === 'login') field.value = ${JSON.stringify(name)};
    if (field.name === 'password') field.value = 'x';
  }
  document.body.id = 'left';
  (form.querySelector('[type=submit]') ?? form).click?.();
  return true;
})()`;
const evaluate = async (expression) => {
  try {
    const { result } = await call('Runtime.evaluate', { expression, returnByValue: true }, page);
    return result.value;
  } catch {
    // The page went away in the middle: the next one is looked at.
    return undefined;
  }
};
const pause = () => new Promise((resolve) => setTimeout(resolve, 50));

// Until the page that was marked is gone.
const gone = async () => {
  while ((await evaluate(`document.body?.id === 'left'`)) !== false) await pause();
};

const go = async (url) => {
  await evaluate(`document.body.id = 'left'`);
  const { errorText } = await call('Page.navigate', { url }, page);
  if (errorText) return { url, text: errorText };
  await gone();
  for (let forms = 0; ; ) {
    const look = await evaluate(LOOK);
    if (!look || look.busy) {
      await pause();
    } else if (look.form && forms < 6) {
      forms += 1;
      await evaluate(SEND);
      await gone();
    } else {
      return { url: look.url, text: look.text };
    }
  }
};

console.log(JSON.stringify({ ready: authenticatorId }));
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'no finger' || line === 'finger') {
    await call('WebAuthn.setUserVerified', { authenticatorId, isUserVerified: line === 'finger' }, page);
    console.log(JSON.stringify({ url: '', text: line }));
  } else {
    console.log(JSON.stringify(await go(line)));
  }
}
process.exit();
