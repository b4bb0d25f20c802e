/* What `cargo xtask demo` profiles: a small web server's inner loop, fed with requests it makes up.
 * It leaks the way servers do: sessions that never expire, a header kept when a request is bad, a
 * log that is only ever appended to. Most of what it allocates it frees: request and reply of every
 * request, and a page cache that evicts. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CACHED_PAGES = 256, SESSIONS = 4096 };

struct session {
	struct session *next;
	unsigned user;
	char basket[200];
};

struct page {
	unsigned id;
	char *html;
};

struct log_line {
	struct log_line *next;
	char text[40];
};

static struct session *sessions[SESSIONS];
static struct page cache[CACHED_PAGES];
static struct log_line *access_log;

static unsigned random_below(unsigned limit)
{
	static uint32_t state = 2463534242u;
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % limit;
}

static char *render_page(unsigned id)
{
	size_t size = 2000 + id % 7 * 500;
	char *html = malloc(size);
	if (html)
		snprintf(html, size, "<title>Page %u</title>", id);
	return html;
}

/* Healthy: what it puts in, it takes out again. */
static const char *find_page(unsigned id)
{
	struct page *slot = &cache[id % CACHED_PAGES];
	if (!slot->html || slot->id != id) {
		free(slot->html);
		slot->html = render_page(id);
		slot->id = id;
	}
	return slot->html ? slot->html : "";
}

/* Leak: every login makes a session, and nothing ends one. */
static struct session *create_session(unsigned user)
{
	struct session *session = calloc(1, sizeof *session);
	if (session) {
		session->user = user;
		session->next = sessions[user % SESSIONS];
		sessions[user % SESSIONS] = session;
	}
	return session;
}

static int log_in(unsigned user)
{
	return create_session(user) ? 200 : 500;
}

/* Leak: the early return forgets the copy. */
static int parse_headers(const char *request)
{
	size_t size = strlen(request) + 1;
	char *header = malloc(size);
	if (!header)
		return 500;
	memcpy(header, request, size);
	if (strchr(header, '%'))
		return 400;
	free(header);
	return 0;
}

/* Leak: lines are added, never written out. */
static void log_access(unsigned user, int status)
{
	struct log_line *line = malloc(sizeof *line);
	if (line) {
		snprintf(line->text, sizeof line->text, "user %u: %d", user, status);
		line->next = access_log;
		access_log = line;
	}
}

static int send_page(unsigned id)
{
	const char *html = find_page(id);
	char *reply = malloc(strlen(html) + 64);
	if (!reply)
		return 500;
	sprintf(reply, "HTTP/1.1 200 OK\r\n\r\n%s", html);
	free(reply);
	return 200;
}

static void handle_request(const char *request, unsigned user)
{
	int status = parse_headers(request);
	if (!status)
		status = random_below(4) ? send_page(random_below(1000)) : log_in(user);
	log_access(user, status);
}

static void serve(void)
{
	unsigned user = random_below(100000);
	char *request = malloc(300);
	if (!request)
		return;
	const char *escape = random_below(10) ? "" : "%2e";
	snprintf(request, 300, "GET /%s HTTP/1.1\r\nCookie: user=%u; theme=%0180d\r\n", escape, user, 0);
	handle_request(request, user);
	free(request);
}

int main(void)
{
	for (;;) {
		struct timespec pause = { .tv_nsec = 1000000 };
		nanosleep(&pause, NULL);
		for (int request = 0; request < 5; request++)
			serve();
	}
}
