"""What an error's sentences say, where its codes and status leave it open.

Proxies replace an error's code by "400" and keep its text, and some servers have no codes. The
patterns are narrow: a limit on requests or a complaint about a parameter must never look like a
refusal, because a refused prompt is not requested again, nor like an account without credit, which
ends the run. Advice ("add credits to raise your limit") is no evidence. The texts were seen in
public reports on OpenAI, Azure, Google, xAI, Bedrock, Together, fal, LiteLLM, one-api and others.
"""

import functools
import re
from dataclasses import dataclass

from dagster_imagegen.engine.endpoint.kinds import FailureKind

# What stands in angle brackets in a pattern. `<near>` does not leave the sentence.
_PARTS = {
    "near": r"[^.\n]{0,60}?",
    "moderation": (
        r"<said>((content|usage|use|safety|moderation)[ -](policy|policies|guidelines?|filters?|"
        r"filtering|management policy|moderation|system|checks?|checker|standards)|"
        r"community guidelines|guardrails?|responsible ai|terms of (use|service))\b"
    ),
    "blocked": (
        r"<said>(blocked|blocks|rejected|rejects|refused|flagged|violat\w+|triggered|filtered|"
        r"prohibited|disallowed|not allowed|not permitted|infring\w+|goes against|is against)\b"
    ),
    "prompt": r"<said>(prompts?|content|images?|pictures?|inputs?|outputs?|text)\b",
    "bad content": (
        r"<said>(sensitive|inappropriate|unsafe|harmful|prohibited|disallowed|offensive|explicit|"
        r"nsfw|sexual|restricted|forbidden|banned) (content|words?|terms?|material|text|prompts?|"
        r"images?|imagery|"
        r"information)\b"
    ),
    "make": r"(create|generate|draw|make)",
    "violence": r"\b(violence|violent|gore|nudity|nude|sexual\w*)\b",
    "bad": r"(inappropriate|unsafe|harmful)",
    "of the server": (
        r"\b(overloaded|unavailable|timed? ?out|is down|system error|account|organization|"
        r"internal( server)? error|service error|connection (refused|reset|closed|error|failed)|"
        r"econn\w+|bad gateway|could not (reach|connect)|(try|retry) (again )?later|please retry)\b"
    ),
    "not now": (
        r"\b(upstream|returned 5\d\d|busy|high demand|capacity|limit|gateway|out of memory|"
        r"(right now|at (the moment|this time))|today|try again)\b"
    ),
    "not passed": r"<said>(failed?|failing|(not|n't) pass(ed)?)",
    "key": r"((x-)?api[ _-]?key|(access|auth\w*|bearer|proxy server) token|jwt|credentials)\b",
    "model": r"\bmodels?<its name>",
    "model or place": r"\b(model|engine|deployment)s?<its name>",
    # Without quotes, a digit, a hyphen or a slash it is a plain word, as in "the model server".
    "its name": (
        r"((\s*[:=]\s*|(\s+|/)(?=\S{0,60}[-\d/\"'`]))(?!(server|instance|worker|replica|node|pod)s?\b)"
        r"[\"'`]?[\w./:@-]{1,100}[\"'`]?)?"
    ),
    # At the beginning of a sentence; elsewhere it can be the size of the model that is meant.
    "known model": (
        r"(^|[.:!\n]\s?)(the )?(?!\S{0,100}\.(png|jpe?g|webp|gif)\b)[\"'`]?[\w./:@-]{0,60}"
        r"(gpt-|dall-e|imagen|flux|diffusion|gemini-|grok-|seedream|stable-image|sdxl|qwen-image|"
        r"ideogram|recraft)[\w./:@-]{0,60}[\"'`]?"
    ),
    "option": r"(parameter|argument|field|option|property|header)s?\b",
    "end of sentence": (
        r"(?=\s*($|[\n.,;]|by |to |as of |and |for (this|your)|in your|"
        r"in this (region|country|location)\b))"
    ),
    "not valid": (
        r"\b(not valid|invalid|incorrect|not found|expired|missing|required|revoked|disabled|"
        r"malformed|does not exist|reported as leaked|deleted|not authorized|"
        r"not be (decoded|verified))\b"
    ),
    "suspended": (
        r"\b(has been|is|was) (temporarily |currently )?(suspended|deactivated|disabled|banned|"
        r"terminated|blocked|deleted)\b"
    ),
    "rules": r"\b(polic(y|ies)|guidelines?|guardrails|terms|standards|practices|laws?)\b",
    "contains": (
        r"<said>(contain(s|ed|ing)?|includ(es?|ed|ing)|detected|considered|deemed|classified as|"
        r"potential(ly)?|possible|due to|because of)"
    ),
    "credit": (
        r"\b(credits?|funds|(?<!load[ -])(?<!white[ -])(?<!color[ -])(?<!colour[ -])balance)\b"
    ),
    "out of": (
        r"\b(insufficient|not enough|no (more|remaining)|(run|ran|is|are) out of|"
        r"used (up )?all( of)?|exhausted|depleted|zero|negative)"
    ),
    "used up": (
        r"\b(too low|exhausted|depleted|insufficient|used up|empty|negative|not enough|"
        r"not sufficient|ran out|run out|"
        r"below (the )?(minimum|limit|zero))\b"
    ),
    "reached": r"\b(reached|exceeded|hit)\b",
    "money limit": (
        r"\b((billing|spend(ing)?|credit)[ -](hard |soft )?(limit|cap)|"
        r"monthly ([\w-]+ )?(limit|cap|quota|allowance))\b"
    ),
    # A word follows that is not denied.
    "said": (
        r"(?<!\bno )(?<!\bnever )(?<!\bnever been )(?<!not )(?<!not be )(?<!not been )"
        r"(?<!n['’]t )(?<!n['’]t be )(?<!n['’]t been )\b"
    ),
}


@dataclass(frozen=True)
class _Sentences:
    """Texts that name one kind of failure: a pattern a line, without regard to case."""

    kind: FailureKind
    says: str
    unless: str = ""
    of_server_errors: bool = True
    """Whether a text that comes with a status of 500 or more says so as well."""


_LIMIT_ON_REQUESTS = r"""
    \brate[- ]limit(s|ed)?\b<near><reached>
    <reached><near>\brate[- ]limits?\b
    \btoo many (concurrent )?requests\b|\b(are|is|was|being|been) throttled\b
    请求(过于频繁|过多)|频率限制|限流
"""
_ABOUT_PARAMETER = r"""
    \b(unknown|unsupported|invalid|unrecogni[sz]ed|unexpected|extra|missing) (\w+ )?<option>
    \b<option><near>\b(not (allowed|permitted|supported)|unsupported|rejected|invalid)\b
"""
# Enough to doubt that a mistake of the user is a refusal, and too little to say what it is.
_PERHAPS_ABOUT_PARAMETER = r"""
    \b(invalid|unsupported|unknown) (\w+ )?(value|size|quality|format|image|file|background|mask)\b
    \b(supported|allowed|possible) (values|sizes|formats)\b
    \bmust be\b|\btoo (long|large|small|short|big|many)\b|\b(is|are) required\b
"""
# The first entry whose pattern is found decides.
_MESSAGES = (
    _Sentences(
        FailureKind.OUT_OF_CREDIT,
        says=r"""
            <out of> ([\w']+ ){0,3}<credit>
            \bno credits? (left|remaining|available)\b
            <credit>[^.\n]{0,30}<used up>
            <credit> ((have|has|are) )?((all|already) )?expired\b
            <money limit>[^.\n]{0,30}<reached>
            <reached>[^.\n]{0,40}<money limit>
            \bbudget has been exceeded\b|\bexceeded ?budget\b|\bcrossed budget\b|\bover budget\b
            \bexceeded your current quota,? please check your plan and billing\b
            \bpayment (is )?required\b
            \b(overdue|unpaid) (balance|bills?|invoices?|payments?)\b
            \bbilling (is |has been )?(not active|not enabled|disabled|inactive)\b
            \baccount is not active, please check your billing\b
            \brequires billing to be enabled\b|\brequires more credits\b
            \b(in arrears|quota (is )?not enough)\b|\btop up your (account|balance) to continue\b
            \b(subscription|trial|plan) (has |is )?(expired|ended|lapsed|inactive)\b
            <out of> tokens (left |remaining )?(on|in|for) your (plan|account|subscription)\b
            \bsolde\b<near>\binsuffisant|\bsaldo insuficiente\b
            \bguthaben\b<near>\b(nicht|erschöpft|aufgebraucht|leer)\b
            余额不足|额度不足|额度已用尽|配额不足|欠费|残高不足|잔액.{0,3}부족
        """,
        # Google's limit on requests has OpenAI's words for an empty account.
        unless=r"""
            \brate[- ]limit|\bthrottl(ed|ing)\b(?!_)|\bconcurren|\bslow down\b
            \bquota[ _]metric|\bquota exceeded for\b|quotaMetric
            \b(try again|retry) (in|after) \d|\bper[ -](second|minute|hour)\b|\b[rti]pm\b
        """,
    ),
    _Sentences(  # the key
        FailureKind.MISCONFIGURED,
        says=r"""
            \b(invalid|incorrect|wrong|expired|missing|revoked|malformed|no) (\w+ )?<key>
            \b<key>[^.\n]{0,30}?<not valid>
            \b(didn't|did not|must) provide an api key\b
            \bauthentication (error|failed|failure|required)\b|\bfailed to authenticate\b
            无效的令牌|(api ?key|密钥).{0,4}(无效|错误|过期)
        """,
    ),
    _Sentences(  # the account
        FailureKind.MISCONFIGURED,
        says=r"""
            \b(account|organi[sz]ation|project|team)\b[^.\n]{0,40}<suspended>
        """,
    ),
    _Sentences(
        FailureKind.MISCONFIGURED,
        says=r"""
            <model or place>\s+(does not exist|doesn't exist|is unknown)\b
            \bdoes not exist or you do not have access to (it|this)\b
            <model or place>\s+(is |was |could )?not (be )?found\b
            <model>\s+is not (recogni[sz]ed|supported|available)<end of sentence>
            <model or place>\s+has been (deprecated|retired|shut ?down|decommissioned|removed)\b
            \b(invalid|unknown|unsupported|no such|non-?existent) model\b(?! (<option>|output))
            (<model>|<known model>)\s+is no longer (available|supported|served)<end of sentence>
            \bno endpoints found for\b
            \bnot a valid model\b|\bunable to access model\b
            \bnot have access to (the )?model\b
            模型.{0,40}不存在
        """,
        # What it is about is no model but its server or its size; or it is there again later.
        unless=r"""
            \b(of|for|by|with) ((the|this|your) )?<model or place>\s+(is|was|has|does|could)\b
            \bavailable\b[^\n]{0,60}\b(try again|retry|temporar(y|ily))\b
        """,
    ),
    _Sentences(
        FailureKind.REFUSED,
        says=r"""
            <blocked><near><moderation>
            <moderation><near><blocked>
            <not passed> (our |the |a )?(\w+ )?(<moderation>|moderation\b)
            <said>(blocked|flagged|rejected|refused) (by|in|during) (\w+ ){0,3}moderation\b
            \bcontent_?policy_?violation|\bresponsible_?ai_?policy_?violation
            \bmoderation_blocked\b
            <prompt>[^.\n]{0,40}<said>flagged\b(?! as (too|invalid|malformed|duplicate|spam))
            <prompt>[^.\n]{0,40}<said>violat\w*<near><rules>
            <said>violat\w* (one of |some of )?our <rules>
            <contains> ([\w-]+ ){0,3}?<bad content>
            <prompt><near><said>(deemed|considered|found) (to be )?<bad>\b
            \bnot allowed by (our |the )?moderation\b|<said>jailbreak (was |attempt )?detected\b
            <said>unsafe prompt\b
            <said>(nsfw content|(potentially|possibly|considered|contains) nsfw)\b
            <said>(prompt|content) (was |is |has been )?(blocked|moderated)\b
            \bimage_safety\b|\bfinish_?reason\W{1,4}(safety|prohibited_content|content_filter)\b
            (<bad content>|<said>nsfw) (\w+ ){0,2}(detected|found|blocked|is not allowed)\b
            \bblocked\b<near>\b(due to safety|prohibited[_ ]content|image_safety)\b
            \b(due to|because of|for) (our )?safety (reasons|concerns|restrictions)\b
            \bsimilar(ity)? to third[- ]party content\b
            敏感(词|内容|信息|文本)|违规(内容|图片|文本|提示)|违反.{0,20}(政策|规范|规定|准则)
            内容(安全|审核).{0,10}(拦截|拒绝|未通过|不通过|违规)|审核(未|不)通过|内容不合规
            наруша\w+[^.\n]{0,20}(политик|правил)
            ポリシー.{0,10}違反|不適切な(内容|コンテンツ)|정책.{0,10}위반|부적절한 (콘텐츠|내용)
            \b(verstößt|verletzt)\b<near>\b(inhalts|nutzungs|sicherheits)?richtlinien?\b
            \b(enfreint|viole)\b<near>\b(politiques?|règles)\b
            \b(infringe|incumple|viola)\b<near>\b(políticas?|directrices|normas)\b
        """,
        unless=rf"""
            {_ABOUT_PARAMETER.strip()}
            {_LIMIT_ON_REQUESTS.strip()}
            <of the server>
        """,
    ),
    _Sentences(  # what a server says too that cannot tell, or cannot work
        FailureKind.REFUSED,
        says=r"""
            \bI (cannot|can.t|am unable to) <make> ([\w-]+ ){0,3}(<bad content>|<violence>)
            \bI (cannot|can.t|am unable to) (help|assist) with (that|this)\b( request)?\s*($|[\n.!])
            \bprompt moderation failed\b|\bsafety check failed\b
        """,
        unless=rf"""
            {_ABOUT_PARAMETER.strip()}
            {_LIMIT_ON_REQUESTS.strip()}
            <of the server>
            <not now>
        """,
        of_server_errors=False,
    ),
    _Sentences(FailureKind.RATE_LIMITED, says=_LIMIT_ON_REQUESTS),
)


@functools.cache
def _compiled(patterns: str) -> re.Pattern[str]:
    lines = [line.strip() for line in patterns.splitlines() if line.strip()]
    joined = "|".join(lines or [r"(?!)"])  # no line: nothing is found
    for name, part in _PARTS.items():
        joined = joined.replace(f"<{name}>", part)
    return re.compile(joined, re.IGNORECASE)


def kind_in_message(text: str, *, http_status: int) -> FailureKind | None:
    """The kind of failure that an error's text names beyond doubt; None if it names none."""
    text = re.sub(r"[^\S\n]+", " ", text)
    for each in _MESSAGES:
        if http_status >= 500 and not each.of_server_errors:
            continue
        if _compiled(each.says).search(text) and not _compiled(each.unless).search(text):
            return each.kind
    return None


def is_about_parameter(text: str) -> bool:
    """Whether an error's text complains about a parameter or its value."""
    return bool(_compiled(_ABOUT_PARAMETER + _PERHAPS_ABOUT_PARAMETER).search(text))
