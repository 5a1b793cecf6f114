// The README's journey with a client that openapi-typescript made. Arguments: the gateway, the issuer.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.d.ts";

declare const process: { argv: string[] };
const [, , gateway, issuer] = process.argv;

function expect(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(`It is not so: ${what}.`);
}

function client(token?: string) {
  return createClient<paths>({ baseUrl: gateway, headers: token ? { Authorization: `Bearer ${token}` } : {} });
}

async function until<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
  for (const end = Date.now() + 10_000; Date.now() < end; await new Promise((wait) => setTimeout(wait, 50))) {
    const answer = await ask();
    if (answer !== undefined) return answer;
  }
  throw new Error(`After ten seconds it is still not so: ${what}.`);
}

// a session of the identity provider, exchanged
const opened = await fetch(`${issuer}/v1/sessions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ subject: "typescript" }),
});
const { token: session } = (await opened.json()) as { token: string };
const { data: grant } = await client().POST("/v1/auth/exchange", { body: { subject_token: session } });
expect(grant?.workspace_id === null, "the first tokens are for the person's own realm");

// a workspace, asked for twice with one key
const realm = client(grant.access_token);
const create = () =>
  realm.POST("/v1/workspaces", {
    params: { header: { "Idempotency-Key": "my-first" } },
    body: { name: "Acme", slug: "acme", timezone: "Europe/Berlin" },
  });
const [first, second] = [await create(), await create()];
expect(first.data !== undefined && first.data.id === second.data?.id, "one key makes one workspace");
expect(second.response.headers.get("Idempotency-Replayed") === "true", "the second answer is a replay");

// into it, and a token for programs
const moved = await realm.POST("/v1/auth/refresh", {
  body: { refresh_token: grant.refresh_token, workspace_id: first.data.id },
});
const person = client(moved.data?.access_token);
const scopes: components["schemas"]["Permission"][] = ["secrets:read", "secrets:write", "secrets:reveal", "audit:read"];
const { data: made } = await person.POST("/v1/api-tokens", { body: { name: "ci", scopes, expires_in_days: 1 } });
expect(made !== undefined, "a token is made");

// a secret, written and revealed
const program = client(made.token);
const at = { params: { path: { path: "db/password" } } };
const put = await program.PUT("/v1/secrets/{path}", { ...at, body: { value: "s3cret" } });
const shown = await program.POST("/v1/secrets/{path}/reveal", at);
expect(put.data?.version === 1 && shown.data?.value === "s3cret", "the secret is revealed");

// every act, in order
const acts = ["tenancy.workspace_created", "auth.token_created", "vault.secret_written", "vault.secret_revealed"];
await until("the log has every act", async () => {
  const { data: page } = await program.GET("/v1/audit/events", { params: { query: { order: "index", limit: 100 } } });
  const actions = page?.data.map((entry) => entry.action) ?? [];
  return acts.every((act) => actions.includes(act)) || undefined;
});

// revoked, and refused
const revoked = await person.DELETE("/v1/api-tokens/{id}", { params: { path: { id: made.id } } });
expect(revoked.response.status === 204, "the token is revoked");
const problem = await until("the token is refused", async () => (await program.GET("/v1/secrets")).error);
expect(problem.status === 401 && problem.code === "unauthorized", "the refusal has its code");
